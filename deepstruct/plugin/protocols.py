"""What executors, sinks and renderers of plugins look like. A plugin needs no base class: the names count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from deepstruct.plugin.events import BatchInfo, Done, Work, WorkOptions
    from deepstruct.report import Report


@runtime_checkable
class Executor(Protocol):
    """Runs a function over many items, wherever it likes (see `deepstruct_executors`)."""

    name: str

    def available(self) -> str | None:
        """None, or why it cannot run here (a package that is missing, say)."""
        ...

    def run(self, work: Work, items: Sequence[Any], options: WorkOptions) -> Iterator[Done[Any]]:
        """Yield one `Done` for each item as it is done, in any order, each index once.

        An item that raises, or whose worker dies, gives a `Done` with an error and costs no other item.
        Closing the iterator early (`generator.close()`, KeyboardInterrupt) stops all workers.
        """
        ...


@runtime_checkable
class SinkWriter(Protocol):
    """An open sink. Used by one thread of one process."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take the rows of one checkpoint: values of one row are numbers, strings, booleans or None."""
        ...

    def close(self) -> None:
        """Finish: everything written is safe when this returns. Called once, also after an error."""
        ...


@runtime_checkable
class Sink(Protocol):
    """A place where rows of results go (see `deepstruct_sinks`)."""

    name: str

    def accepts(self, target: str) -> int:
        """How sure it is that `target` (a path or a URL) is for it: 0 (no) to 100."""
        ...

    def open(self, target: str, batch: BatchInfo) -> SinkWriter:
        """A writer to the target. Rows that are there already stay, unless the format cannot hold them."""
        ...


@runtime_checkable
class Renderer(Protocol):
    """Makes a document of a report (see `deepstruct_renderers`)."""

    name: str
    suffixes: tuple[str, ...]

    def render(self, report: Report) -> str | bytes:
        """The document: text, or bytes for binary formats."""
        ...
