"""What plugins are told about a batch: which batch runs, and what came of each checkpoint.

Plain frozen values that pickle, so that they may travel to other processes. Later versions add fields at
the end and take none away within one number of the plugin interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class BatchInfo:
    """One run over checkpoints.

    Attributes:
        run: an identifier of this run, new for each one, also when it resumes.
        source: what was asked for: a folder, a pattern, a URL.
        target: where results go: a path or URL, "" for nowhere.
        total: checkpoints that this run will do.
        skipped: checkpoints that were done before and are left as they are.
        config: what was asked for: orders, metrics, analyzer, conventions (values that JSON can hold).
        config_hash: of `config`, as stored with every row.
        executor: name of the executor.
        workers: number of workers.
    """

    run: str
    source: str
    target: str = ""
    total: int = 0
    skipped: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    executor: str = ""
    workers: int = 1


@dataclass(frozen=True)
class CheckpointOutcome:
    """What came of one checkpoint.

    Attributes:
        path: of the checkpoint, as it was found.
        content_hash: of its bytes, "" when it could not be read.
        state: "ok", "failed" (an error that names its reason), or "crashed" (its worker died).
        rows: one mapping for each value: order, scope, name, value, analyzer, provider and so on.
        error: one line, "" when all went well.
        seconds: wall-clock time.
        peak_memory: bytes that the worker held at most, None where that is unknown.
        done: checkpoints of this run that are done, this one included.
    """

    path: str
    content_hash: str = ""
    state: str = "ok"
    rows: Sequence[Mapping[str, Any]] = ()
    error: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None
    done: int = 0


@dataclass(frozen=True)
class BatchSummary:
    """How a run over checkpoints ended.

    Attributes:
        ok, failed, crashed: numbers of checkpoints.
        seconds: wall-clock time of the whole run.
        interrupted: True when it was ended before all was done.
    """

    ok: int = 0
    failed: int = 0
    crashed: int = 0
    seconds: float = 0.0
    interrupted: bool = False


@dataclass(frozen=True)
class WorkOptions:
    """How an executor shall run a batch.

    Attributes:
        workers: processes (or whatever the executor has), at least 1.
        threads: threads for each of them; None: share out the cores.
        memory: bytes that one worker may take; None: no limit.
        attempts: how often one item may be tried when its worker dies, at least 1.
        extra: the executor's own options, such as {"scheduler": "tcp://..."}.
    """

    workers: int = 1
    threads: int | None = None
    memory: int | None = None
    attempts: int = 2
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Done(Generic[_T]):
    """One item of work that is done: either `value`, or the `error` that ended it.

    `index` is the position of the item among those that were handed in. `crashed` is True when no error
    was raised but the worker died (killed, out of memory); `error` then says so.
    """

    index: int
    value: _T | None = None
    error: BaseException | None = None
    crashed: bool = False


Work = Callable[[Any], Any]
"""A function of one item. It and its items pickle; it keeps no state between items but caches."""
