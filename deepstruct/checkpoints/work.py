"""The work that executors do: one checkpoint in, plain values out."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepstruct.checkpoints.discover import Found
from deepstruct.checkpoints.spec import BatchSpec

ROW = ("order", "scope", "layer", "name", "value", "analyzer", "exact", "residual", "converged", "note", "provider",
       "seconds")  # fmt: skip
"""Keys of a row of results."""


@dataclass(frozen=True)
class Outcome:
    """What came of one checkpoint; it pickles.

    Attributes:
        state: "ok", "failed", or "crashed" (its worker died).
        rows: one mapping with the keys `ROW` for each value; a layer-scope metric has one for each layer.
        skipped: (order, metric, reason) of what was not computed.
    """

    path: str
    state: str = "ok"
    content_hash: str = ""
    error: str = ""
    rows: tuple[Mapping[str, Any], ...] = ()
    skipped: tuple[tuple[str, str, str], ...] = ()
    kind: str = ""
    reader: str = ""
    step: int | None = None
    parameters: int | None = None
    architecture: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_memory: int | None = None
    size: int = 0
    stamp: str = ""
    reused: int = 0


@dataclass(frozen=True)
class CheckpointWork:
    """Measures the checkpoint that it is called with. Errors become outcomes; only what ends a process passes."""

    spec: BatchSpec
    key: str
    known: Mapping[str, str] = field(default_factory=dict)  # path -> content hash of what is done already

    def __call__(self, found: Found) -> Outcome:
        from deepstruct.errors import DeepstructError

        began = time.perf_counter()
        _reset_peak()
        about: dict[str, Any] = {"path": found.path, "size": found.size, "stamp": found.stamp}
        try:
            about.update(self._measured(found, about))
        except KeyboardInterrupt:
            raise
        except DeepstructError as error:
            about.update(state="failed", error=_one_line(error))
        except (MemoryError, RuntimeError) as error:
            about.update(state="failed", error=_out_of_memory(error) or _unexpected(error))
        except Exception as error:
            about.update(state="failed", error=_unexpected(error))
        return Outcome(**about, seconds=time.perf_counter() - began, peak_memory=_peak())

    def _measured(self, found: Found, about: dict[str, Any]) -> dict[str, Any]:
        from deepstruct.checkpoints.reading import content_hash, local_copy, read_checkpoint
        from deepstruct.plugin import get_host

        with local_copy(found) as path:
            about["content_hash"] = content_hash(path)
            if self.known.get(found.path) == about["content_hash"]:
                return {"state": "same"}
            registry = get_host().registry()
            checkpoint = read_checkpoint(
                path, found.path, registry,
                allow_pickle=self.spec.allow_pickle, allow_torchscript=self.spec.allow_torchscript,
            )  # fmt: skip
            about.update(reader=checkpoint.reader, step=checkpoint.step, notes=checkpoint.notes)
            measured = _bench(self).measure(checkpoint.state, found.path, path)
            rows, skipped = report_rows(measured.report)
        return {
            "rows": rows, "skipped": skipped, "kind": measured.kind, "parameters": measured.parameters,
            "architecture": measured.architecture, "reused": measured.reused,
            "notes": (*checkpoint.notes, *measured.notes),
        }  # fmt: skip


def report_rows(report: Any) -> tuple[tuple[dict[str, Any], ...], tuple[tuple[str, str, str], ...]]:
    """(rows, what was skipped) of a report; values over all nodes are told as skipped: a table cannot hold them."""
    rows: list[dict[str, Any]] = []
    skipped = [(line.order, line.name, line.reason) for line in report.skipped]
    for row in report.rows:
        if row.scope == "node":
            skipped.append((row.order, row.name, "one value for each node: see deepstruct.analyze"))
            continue
        entries = row.value.items() if row.scope == "layer" else [(None, row.value)]
        about = {"order": row.order, "scope": row.scope, "name": row.name, "analyzer": row.analyzer,
                 "exact": row.exact, "residual": row.residual, "converged": row.converged, "note": row.note,
                 "provider": row.provider, "seconds": row.seconds}  # fmt: skip
        rows += [{**about, "layer": layer, "value": value} for layer, value in entries]
    return tuple(rows), tuple(skipped)


_benches: dict[str, Any] = {}


def _bench(work: CheckpointWork) -> Any:
    """The bench of this process for a question; only the last one is kept."""
    from deepstruct.checkpoints.bench import Bench
    from deepstruct.plugin import get_host

    if work.key not in _benches:
        _benches.clear()
        _benches[work.key] = Bench(work.spec, get_host().registry())
    return _benches[work.key]


def forget(key: str) -> None:
    """Let go of what this process keeps for a question."""
    _benches.pop(key, None)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unexpected(error: BaseException) -> str:
    return f"{type(error).__name__}: {_one_line(error)}"


def _out_of_memory(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "alloc" in str(error).lower():
        return f"out of memory: {_one_line(error)}"
    return ""


def _reset_peak() -> None:
    """Start the kernel's high-water mark anew, so that the peak is that of one checkpoint (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return  # without it the peak is that of the process so far


def _peak() -> int | None:
    """Bytes of memory that this process held at most."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used << 10
