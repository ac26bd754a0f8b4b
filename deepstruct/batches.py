"""`deepstruct.batch`: many checkpoints in, one table out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deepstruct.errors import InputError

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from deepstruct.checkpoints.runner import Run
    from deepstruct.checkpoints.store import Store
    from deepstruct.plugin.events import BatchSummary

    Model = nn.Module | Callable[[], nn.Module] | str | None
    Source = str | os.PathLike[str]

STORES = (".db", ".sqlite", ".sqlite3")
"""Suffixes of files that are the store itself; tables in other formats are written from one beside them."""


@dataclass(frozen=True)
class CheckpointResult:
    """What came of one checkpoint.

    Attributes:
        path: absolute path, or URL.
        state: "ok", "failed" (with `error`), or "crashed" (its worker died; `error` says how).
        step: of training, where the checkpoint or its name tells.
        parameters: of the model; without a model, elements of what looks like parameters.
        rows: one mapping for each value, with "order", "scope", "layer", "name", "value" and more.
        earlier: done by an earlier run and not changed since.
    """

    path: str
    state: str
    error: str = ""
    step: int | None = None
    parameters: int | None = None
    rows: tuple[Mapping[str, Any], ...] = ()
    earlier: bool = False

    def __getitem__(self, order: str) -> dict[str, Any]:
        """The values of graph scope at an order, by metric. Raises KeyError for an order that was not measured."""
        if order not in {row["order"] for row in self.rows}:
            why = f": {self.error}" if self.error else ""
            raise KeyError(f"{self.path}: nothing was measured at order {order!r}{why}")
        return {row["name"]: row["value"] for row in self.rows if (row["order"], row["scope"]) == (order, "graph")}


class _Seen(NamedTuple):
    path: str
    state: str
    earlier: bool


class BatchResults:
    """What `deepstruct.batch` returns: iterate over it to have the work done and see results as they come.

    `run()`, `failures`, `summary` and `to_frame()` do what is left first. Iterating again starts with what is there.
    """

    def __init__(self, run: Run, store: Store, close: Callable[[], None], sinks: Sequence[Any] = ()) -> None:
        self._run, self._store, self._sinks = run, store, sinks
        self._going: Iterator[Any] | None = None
        # Rows stay in the store: a folder of ten thousand would fill the memory with them.
        self._seen = [_Seen(item.path, "ok", True) for item in run.plan.left]
        self._last: CheckpointResult | None = None
        self._close: Callable[[], None] | None = close

    def __iter__(self) -> Iterator[CheckpointResult]:
        """Results as they come; those of an earlier run that still hold come first."""
        place = 0
        while True:
            while place < len(self._seen):
                yield self._result(place)
                place += 1
            if not self._advance():
                return

    def __len__(self) -> int:
        """Checkpoints of this run, done or not."""
        return len(self._run.plan.todo) + len(self._run.plan.left)

    def run(self) -> BatchResults:
        """Do all that is left."""
        while self._advance():
            pass
        return self

    @property
    def failures(self) -> list[CheckpointResult]:
        """Checkpoints that failed or crashed."""
        seen = self.run()._seen
        return [self._result(place) for place, one in enumerate(seen) if one.state != "ok"]

    @property
    def summary(self) -> BatchSummary:
        """Counts, seconds, and whether it was interrupted, of this run so far."""
        return self._run.summary()

    @property
    def store(self) -> Store:
        """The store that the results are in."""
        return self._store

    def rows(self, *, wide: bool = False) -> list[dict[str, Any]]:
        """The table as dicts: a row for each value, or (`wide`) for each checkpoint and order."""
        from deepstruct.checkpoints.tables import long_rows, wide_rows

        mine = {item.path for item in (*self._run.plan.todo, *self._run.plan.left)}
        rows = (wide_rows if wide else long_rows)(self.run()._store, config=self._run.config_hash)
        return [row for row in rows if row["path"] in mine]

    def to_frame(self, *, wide: bool = False) -> pandas.DataFrame:
        """The table as a pandas DataFrame; `wide`: a row for each checkpoint and order, a column for each metric.

        Raises MissingExtraError without pandas.
        """
        from deepstruct.checkpoints.tables import ABOUT, LONG, columns_of
        from deepstruct.report.table import frame

        rows = self.rows(wide=wide)
        return frame(rows, columns_of(rows) or (ABOUT if wide else LONG))

    def close(self) -> None:
        """Stop what is under way, and close the store."""
        if self._going is not None and hasattr(self._going, "close"):
            self._going.close()
        self._finish()
        self._store.close()

    def _advance(self) -> bool:
        """One more checkpoint; False when all is done."""
        from deepstruct.checkpoints.sinks import sink_rows

        if self._going is None:
            self._going = self._run.outcomes()
        try:
            outcome = next(self._going)
            for sink in self._sinks:
                sink.write(sink_rows(outcome, self._run.config_hash))
        except StopIteration:
            self._finish()
            return False
        except BaseException:
            self._finish()
            raise
        same = outcome.state == "same"
        self._seen.append(_Seen(outcome.path, "ok" if same else outcome.state, same))
        self._last = None
        if not same:
            self._last = CheckpointResult(
                outcome.path, outcome.state, outcome.error, outcome.step, outcome.parameters, outcome.rows
            )
        return True

    def _finish(self) -> None:
        """Write the table in the format that was asked for, once."""
        if self._close is not None:
            done, self._close = self._close, None
            done()

    def _result(self, place: int) -> CheckpointResult:
        """One of those that are done: the last one as it came, others from the store."""
        from deepstruct.checkpoints.store import decoded

        path, _, earlier = self._seen[place]
        if self._last is not None and place == len(self._seen) - 1:
            return self._last
        config = self._run.config_hash
        key, state, error, step, parameters = self._store.query(
            "SELECT id, state, error, step, parameters FROM checkpoints WHERE path = ? AND config_hash = ?",
            (path, config),
        ).fetchone()
        names = ("order", "scope", "layer", "name", "analyzer", "exact", "residual", "converged", "note", "provider",
                 "seconds")  # fmt: skip
        rows = tuple(
            {**dict(zip(names, rest, strict=True)), "value": decoded(value, kind)}
            for value, kind, *rest in self._store.query(
                'SELECT value, type, "order", scope, layer, metric, analyzer, exact, residual, converged, note, '
                "provider, seconds FROM measured WHERE checkpoint = ? ORDER BY rowid", (key,),
            )
        )  # fmt: skip
        return CheckpointResult(path, state, error, step, parameters, rows, earlier)


def batch(
    source: Source | Sequence[Source],
    model: Model = None,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    orders: Sequence[str] | str = ("zeroth",),
    metrics: Sequence[str] | Literal["all"] | None = None,
    analyzer: str | None = None,
    threshold: float = 0.0,
    density: float | None = None,
    normalization: Literal["one_to_one", "stats"] = "one_to_one",
    attention: Literal["implicit", "units"] = "implicit",
    on_unknown: Literal["error", "dense"] = "error",
    unit: Literal["channel", "head"] = "channel",
    depth: int = 2,
    max_memory: int = 2 << 30,
    max_seconds: float | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    sinks: Sequence[str] = (),
    workers: int = 1,
    executor: str | None = None,
    threads: int | None = None,
    worker_memory: int | None = None,
    timeout: float | None = None,
    executor_options: Mapping[str, Any] | None = None,
    shard: tuple[int, int] | None = None,
    allow_pickle: bool = False,
    allow_torchscript: bool = False,
    rehash: bool = False,
    redo: bool = False,
    seed: int = 0,
) -> BatchResults:
    """Measure many checkpoints of one architecture: it is traced once, and each checkpoint swaps its weights.

    Args:
        source: a folder (searched with all below it), a file, a pattern such as "runs/*.pt", a URL for fsspec, a
            Hugging Face folder, an index of shards; or several of these.
        model: a model, a function without arguments that makes one, or "package.module:factory". With several
            workers it has to pickle. None: what the weights tell alone (each matrix apart), unless a plugin knows
            the model of a checkpoint.
        example_input, example_kwargs, orders, metrics, threshold, density, normalization, attention, on_unknown,
            unit, depth, max_memory, max_seconds, settings: as for `deepstruct.analyze`. Without a model, each weight
            is measured apart at the orders asked for.
        analyzer: None for "operator" with the standard panel (exact, and about as fast for every network) and "auto"
            with metrics by name; or one of `deepstruct.analyze`.
        out: a store (.db, .sqlite), which a later run continues, or a table (.csv, .jsonl, .parquet), which is
            written from a store beside it (`out` + ".db") when the run ends. None keeps results in memory.
        sinks: further places where rows go as they come: "rows.csv", "rows.jsonl", "tensorboard:folder", or what a
            plugin takes.
        workers, executor: processes, and the executor that has them ("in-process", "local", or a plugin's).
        threads: of torch in each worker; None shares out the cores.
        worker_memory: bytes of data that one worker of the local pool may hold; a checkpoint that needs more fails.
        timeout: seconds after which a worker of the local pool is ended; its checkpoint counts as crashed.
        executor_options: the executor's own, such as {"scheduler": "tcp://..."}.
        shard: (i, n) for the i-th of n parts, i from 1.
        allow_pickle: unpickle arbitrary objects: this runs code of the file.
        allow_torchscript: load TorchScript archives for their state.
        rehash: compare contents, not size and time, of what was done before.
        redo: do everything again.
        seed: for the weights of a model that a factory makes.

    Returns:
        Results that are computed as they are iterated over. A checkpoint that cannot be read or does not fit is one of
        them, with the state "failed" and the reason.

    Raises:
        InputError: for arguments that make no sense, and sources without checkpoints.
        DeepstructError: when the model cannot be traced, or the store not be opened.
    """
    from deepstruct.checkpoints.runner import Run, RunOptions
    from deepstruct.checkpoints.sinks import open_sink
    from deepstruct.checkpoints.spec import BatchSpec
    from deepstruct.checkpoints.store import Store
    from deepstruct.checkpoints.tables import export, file_format, long_rows
    from deepstruct.plugin import get_host
    from deepstruct.plugin.events import WorkOptions

    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers must be a whole number, at least 1, got {workers!r}")
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not sources:
        raise InputError("no source is given: name a folder, a file or a pattern")
    spec = BatchSpec(
        model, example_input, example_kwargs, (orders,) if isinstance(orders, str) else tuple(orders),
        metrics if metrics is None or isinstance(metrics, str) else tuple(metrics),
        analyzer or ("operator" if metrics is None else "auto"), max_memory, max_seconds,
        dict(settings or {}),
        {"threshold": threshold, "density": density, "normalization": normalization, "attention": attention,
         "on_unknown": on_unknown},
        {"unit": unit, "depth": depth}, allow_pickle, allow_torchscript, seed,
    )  # fmt: skip
    _check(spec)
    extra = {**(executor_options or {}), **({} if timeout is None else {"timeout": timeout})}
    how = RunOptions(
        executor, WorkOptions(workers, threads, worker_memory, extra=extra), shard, rehash, redo
    )
    target = None if out is None else Path(out)
    place = store_path(out)
    host = get_host()
    store = Store(place)
    run = Run(sources, spec, store, host, how, "" if out is None else str(out))

    info = run.info
    writers = [open_sink(sink, info) for sink in sinks]

    def finish() -> None:
        for writer in writers:
            writer.close()
        if target is not None and target != place:
            export(long_rows(store, config=run.config_hash), target, file_format(target))

    return BatchResults(run, store, finish, writers)


def store_path(out: str | os.PathLike[str] | None) -> Path | None:
    """Where the store of an output is: itself, or a file beside it. Raises InputError for an unknown format."""
    from deepstruct.checkpoints.tables import file_format

    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() in STORES:
        return path
    if file_format(path) is None:
        raise InputError(f"out={os.fspath(out)!r}: the format is told by the suffix: .db, .csv, .jsonl or .parquet")
    return path.with_name(path.name + ".db")


def _check(spec: Any) -> None:
    """Refuse orders, metrics and settings that nobody offers, before any file is read."""
    from deepstruct.analyzers.select import wanted_names
    from deepstruct.metrics.settings import check_settings
    from deepstruct.plugin import get_host

    registry = get_host().registry()
    known = [order.name for order in registry.orders]
    for order in spec.orders:
        if order not in known:
            raise InputError(f"unknown order {order!r}; known: {', '.join(known)}")
    if not spec.orders:
        raise InputError(f"no order is asked for; known: {', '.join(known)}")
    for order in spec.orders:
        wanted_names(spec.metrics, order, registry, None if spec.analyzer == "auto" else spec.analyzer)
    check_settings(spec.settings, [*registry.analyzers, *registry.metrics])
