"""A progress bar on stderr, where stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


@contextmanager
def progress_bar(title: str, enabled: bool | None = None) -> Iterator[Tick | None]:
    """A function to report progress to, or None where nobody watches (stderr is a file or a pipe)."""
    if not (sys.stderr.isatty() if enabled is None else enabled):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def tick(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{title}: {what}", completed=done, total=total)

        yield tick


@contextmanager
def reporting(title: str, progress: Tick | bool | None) -> Iterator[Tick | None]:
    """What a caller passed as `progress=`: a function, True or False for a bar, None for one on a terminal."""
    if callable(progress):
        yield progress
        return
    with progress_bar(title, progress) as tick:
        yield tick
