"""One run over checkpoints: what is to do, who does it, where it goes, and who is told."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from deepstruct.checkpoints.discover import Found, discover
from deepstruct.checkpoints.spec import BatchSpec, config_hash
from deepstruct.checkpoints.store import Store
from deepstruct.checkpoints.work import CheckpointWork, Outcome, forget
from deepstruct.errors import InputError, PluginError
from deepstruct.plugin import Host
from deepstruct.plugin.events import BatchInfo, BatchSummary, CheckpointOutcome, Done, WorkOptions


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; nothing here changes its results.

    Attributes:
        executor: name of an executor; None: "in-process" for one worker without limits, "local" otherwise.
        options: for the executor.
        shard: (i, n): only the i-th of n parts, i from 1; checkpoints are dealt out in turn.
        rehash: compare contents, not size and time of modification, of what was done before.
        redo: do everything again.
    """

    executor: str | None = None
    options: WorkOptions = field(default_factory=WorkOptions)
    shard: tuple[int, int] | None = None
    rehash: bool = False
    redo: bool = False


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
        todo: checkpoints to do.
        left: those that were done before and have not changed.
        known: path -> content hash of those that may have changed: the same content need not be done again.
    """

    todo: list[Found]
    left: list[Found]
    known: dict[str, str]


def question(spec: BatchSpec, fingerprint: str | None, plugins: str) -> dict[str, Any]:
    """The configuration that results belong to: what was asked, of which architecture, and what answered."""
    from deepstruct import __version__

    return {**spec.describe(), "architecture": fingerprint, "deepstruct": __version__, "plugins": plugins}


def plan(
    found: Sequence[Found], done: Mapping[str, tuple[str, int, str, str]], options: RunOptions
) -> Plan:
    """Which checkpoints are to do. What failed or crashed before is tried again."""
    todo, left, known = [], [], {}
    for item in _part(found, options.shard):
        state, size, stamp, digest = done.get(item.path, ("", 0, "", ""))
        if state != "ok" or options.redo or item.problem:
            todo.append(item)
        elif not options.rehash and item.stamp and (item.size, item.stamp) == (size, stamp):
            left.append(item)
        else:
            todo.append(item)
            known[item.path] = digest
    return Plan(todo, left, known)


def _part(found: Sequence[Found], shard: tuple[int, int] | None) -> Sequence[Found]:
    if shard is None:
        return found
    index, count = shard
    if count < 1 or not 1 <= index <= count:
        raise InputError(f"shard {index}/{count}: write i/n with 1 <= i <= n")
    return found[index - 1 :: count]


class Run:
    """A run that is being prepared, under way, or over; iterate over `outcomes` to have it done."""

    def __init__(
        self, sources: Sequence[Any], spec: BatchSpec, store: Store, host: Host, options: RunOptions, target: str = ""
    ) -> None:
        self.host, self.store, self.options, self.spec = host, store, options, spec
        registry = host.registry()
        self.key = uuid.uuid4().hex
        self.found = discover(sources, registry)
        fingerprint = None
        if spec.model is not None:
            from deepstruct.checkpoints.bench import Bench
            from deepstruct.checkpoints.work import _benches

            # Now rather than in the workers: a wrong model or input is one error, not one for each file.
            bench = Bench(spec, registry)
            traced = bench.model()
            assert traced is not None
            fingerprint = traced.fingerprint
            _benches[self.key] = bench
        self.versions = _versions(host)
        self.config = question(spec, fingerprint, self.versions)
        self.config_hash = config_hash(self.config)
        self.plan = plan(self.found, store.done(self.config_hash), options)
        self.executor = self._executor()
        self.info = BatchInfo(
            self.key, " ".join(str(source) for source in sources), target, len(self.plan.todo), len(self.plan.left),
            self.config, self.config_hash, self.executor.name, options.options.workers,
        )  # fmt: skip
        self.counts = {"ok": 0, "failed": 0, "crashed": 0, "same": 0}
        self.seconds = 0.0
        self.interrupted = False

    def _executor(self) -> Any:
        how = self.options.options
        # What may be ended, by the system or by us, must not be this process.
        apart = how.workers > 1 or how.memory is not None or how.extra.get("timeout") is not None
        name = self.options.executor or ("local" if apart else "in-process")
        executor = self.host.registry().named("executors", name)
        reason = executor.available()
        if reason is not None:
            raise PluginError(f"the executor {name!r} cannot run here: {reason}")
        return executor

    def outcomes(self, tell: Callable[[Outcome], None] | None = None) -> Iterator[Outcome]:
        """Do what is to do. Every outcome is in the store before it is yielded.

        Ending the iteration early stops the workers; what is done stays done.
        """
        from deepstruct import __version__

        began = time.perf_counter()
        work = CheckpointWork(self.spec, self.key, self.plan.known)
        self.store.add_config(self.config_hash, self.config)
        self.host.notify("deepstruct_batch_started", batch=self.info)
        finished = False
        try:
            with closing(self._done(work)) as results:
                for outcome in results:
                    if outcome.state == "same":
                        self.store.touch(outcome, self.config_hash)
                    else:
                        self.store.write(outcome, self.config_hash, __version__, self.versions)
                    self.counts[outcome.state] += 1
                    self.host.notify(
                        "deepstruct_checkpoint_done", batch=self.info, outcome=_told(outcome, sum(self.counts.values()))
                    )
                    if tell is not None:
                        tell(outcome)
                    yield outcome
            finished = True
        finally:
            forget(self.key)
            self.interrupted = not finished
            self.seconds = time.perf_counter() - began
            self.host.notify("deepstruct_batch_finished", batch=self.info, summary=self.summary())

    def _done(self, work: CheckpointWork) -> Generator[Outcome, None, None]:
        """Outcomes as the executor has them; each item once, whatever the executor does."""
        todo = self.plan.todo
        missing = dict.fromkeys(range(len(todo)))
        if not todo:
            return
        provider = self.host.registry().provider_of(self.executor) or "unknown"
        results = self.executor.run(work, todo, self.options.options)
        try:
            for done in results:
                if not isinstance(done, Done) or done.index not in missing:
                    raise PluginError(
                        f"the executor {self.executor.name!r} ({provider}) returned {done!r:.200}, which is no Done "
                        "for an item that is still to do"
                    )
                del missing[done.index]
                yield _outcome(done, todo[done.index])
        finally:
            if hasattr(results, "close"):
                results.close()
        for index in missing:
            error = f"the executor {self.executor.name!r} ({provider}) returned nothing for it"
            yield Outcome(todo[index].path, "failed", error=error)

    def summary(self) -> BatchSummary:
        """How it went so far."""
        c = self.counts
        return BatchSummary(c["ok"] + c["same"], c["failed"], c["crashed"], self.seconds, self.interrupted)


def _outcome(done: Done[Any], item: Found) -> Outcome:
    if done.error is None and isinstance(done.value, Outcome):
        return done.value
    error = done.error if done.error is not None else TypeError(f"no outcome came back: {done.value!r:.200}")
    text = " ".join(str(error).split()) or type(error).__name__
    state = "crashed" if done.crashed else "failed"
    return Outcome(item.path, state, size=item.size, stamp=item.stamp, error=f"{item.path}: {text}")


def _told(outcome: Outcome, done: int) -> CheckpointOutcome:
    state = "ok" if outcome.state == "same" else outcome.state
    return CheckpointOutcome(
        outcome.path, outcome.content_hash, state, outcome.rows, outcome.error, outcome.seconds, outcome.peak_memory,
        done,
    )  # fmt: skip


def _versions(host: Host) -> str:
    """Plugins other than ours that are at work, with their versions."""
    names = {r.provider for r in host.records() if not r.builtin and r.state == "ok"}
    return ", ".join(sorted(names))
