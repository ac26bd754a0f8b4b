"""`deepstruct.track`: the same rows as a batch, taken from a model while it trains."""

from __future__ import annotations

import copy
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from deepstruct.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from deepstruct.checkpoints.store import Store


class Tracker:
    """Measures a model every so many steps; made by `deepstruct.track`.

    The model is copied and traced once, when tracking starts; each measurement reads its weights and nothing else. So
    random numbers, gradients, training mode and hooks of the model stay what they are.
    """

    def __init__(
        self, model: nn.Module, spec: Any, every: int, targets: Sequence[str], name: str, verbose: bool
    ) -> None:
        self._model, self._spec, self._every, self._name, self._verbose = model, spec, every, name, verbose
        self._targets = targets
        self._bench: Any = None
        self._store: Store | None = None
        self._sinks: list[Any] = []
        self._config = ""
        self._hooks: list[Any] = []
        self._began = time.perf_counter()
        self._last: int | None = None
        self.steps = 0
        self.measurements = 0
        self.seconds = 0.0
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> Tracker:
        """Trace the model, open the sinks, and measure the start."""
        self._began = time.perf_counter()
        with self._aside():
            self._start()
        self.measure()
        return self

    def __exit__(self, *error: object) -> None:
        """Measure the end, unless an error ends it; close the sinks; say what it cost."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        try:
            if error[0] is None and self._last != self.steps:
                self.measure()
        finally:
            self._close()
        if self._verbose:
            print(f"deepstruct: {self.cost}", file=sys.stderr)

    @property
    def overhead(self) -> float:
        """Seconds of measuring, tracing included, as a share of all seconds so far."""
        return self.seconds / max(time.perf_counter() - self._began, 1e-9)

    @property
    def cost(self) -> str:
        """What tracking took, in words."""
        whole = time.perf_counter() - self._began
        return (
            f"{self.measurements} measurements of {self._name} over {self.steps} steps took {self.seconds:.2f} s, "
            f"{100 * self.overhead:.1f} % of {whole:.2f} s"
        )

    def follow(self, optimizer: torch.optim.Optimizer) -> Tracker:
        """Count the steps of this optimizer, in place of calls of `step`."""

        def stepped(*_: Any) -> None:
            self.step()

        self._hooks.append(optimizer.register_step_post_hook(stepped))
        return self

    def step(self, step: int | None = None) -> bool:
        """One step of training is done (or so many are); whether it was measured."""
        self.steps = self.steps + 1 if step is None else int(step)
        if self.steps % self._every:
            return False
        self.measure()
        return True

    def measure(self) -> list[dict[str, Any]]:
        """Measure now; the rows, which are in the store and the sinks too."""
        from deepstruct.checkpoints.sinks import sink_rows
        from deepstruct.checkpoints.work import Outcome, report_rows

        if self._bench is None:
            raise InputError("tracking has not started: use it as `with deepstruct.track(...) as tracker:`")
        with self._aside():
            began = time.perf_counter()
            state = {k: v.detach().to("cpu", copy=False) for k, v in _inner(self._model).state_dict().items()
                     if hasattr(v, "detach")}  # fmt: skip
            measured = self._bench.measure(state, self._name)
            rows, skipped = report_rows(measured.report)
            outcome = Outcome(
                f"{self._name}@{self.steps}", rows=rows, skipped=skipped, kind="model", reader="training",
                step=self.steps, parameters=measured.parameters, architecture=measured.architecture,
                notes=measured.notes, seconds=time.perf_counter() - began,
            )  # fmt: skip
            if self._store is not None:
                from deepstruct import __version__

                self._store.write(outcome, self._config, __version__, "")
            out = sink_rows(outcome, self._config)
            for sink in self._sinks:
                sink.write(out)
        self._last = self.steps
        self.measurements += 1
        self.rows = out
        return out

    def lightning(self) -> Any:
        """A Lightning callback that does all of this around `Trainer.fit`.

        Raises MissingExtraError without lightning or pytorch_lightning.
        """
        from deepstruct.checkpoints.callbacks import lightning_callback

        return lightning_callback(self)

    def transformers(self) -> Any:
        """A `TrainerCallback` of the Hugging Face library. Raises MissingExtraError without it."""
        from deepstruct.checkpoints.callbacks import transformers_callback

        return transformers_callback(self)

    def _start(self) -> None:
        from deepstruct.checkpoints.bench import Bench
        from deepstruct.checkpoints.runner import question
        from deepstruct.checkpoints.sinks import open_sink
        from deepstruct.checkpoints.spec import config_hash
        from deepstruct.checkpoints.store import Store
        from deepstruct.plugin import get_host
        from deepstruct.plugin.events import BatchInfo

        try:
            twin = copy.deepcopy(_inner(self._model)).cpu().eval()
        except Exception as error:
            raise InputError(
                f"{type(self._model).__name__} cannot be copied for tracking ({type(error).__name__}: {error}); start "
                "before the first forward pass, or keep tensors that need gradients out of its attributes"
            ) from error
        spec = self._spec(twin)
        self._bench = Bench(spec, get_host().registry())
        config = question(spec, self._bench.model().fingerprint, "")
        self._config = config_hash(config)
        info = BatchInfo(self._name, "training", ", ".join(self._targets), config=config, config_hash=self._config)
        for target in self._targets:
            if target.lower().endswith((".db", ".sqlite", ".sqlite3")):
                self._store = Store(target)
                self._store.add_config(self._config, config)
            else:
                self._sinks.append(open_sink(target, info))

    def _close(self) -> None:
        for sink in self._sinks:
            sink.close()
        if self._store is not None:
            self._store.close()
        self._sinks, self._store, self._bench = [], None, None

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Time what is done in the block, and leave random numbers and the mode of gradients as they were."""
        import torch

        began = time.perf_counter()
        python, arrays = random.getstate(), _numpy_state()
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                yield
        finally:
            random.setstate(python)
            if arrays is not None:
                sys.modules["numpy"].random.set_state(arrays)
            self.seconds += time.perf_counter() - began


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()


def _inner(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch.compile and data parallelism."""
    from torch import nn

    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def track(
    model: nn.Module,
    example_input: Any = None,
    *,
    every: int = 100,
    out: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    orders: Sequence[str] | str = ("zeroth",),
    metrics: Sequence[str] | Literal["all"] | None = None,
    analyzer: str | None = None,
    threshold: float = 0.0,
    density: float | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    verbose: bool = True,
) -> Tracker:
    """Measure a model while it trains: at the start, every so many steps, and at the end.

    Use it as a context manager and call `tracker.step()` after each step of the optimizer (or `tracker.follow(
    optimizer)` once); or hand `track(...).lightning()` or `track(...).transformers()` to a trainer.

    Args:
        model: in any mode, on any device; never changed.
        example_input, example_kwargs, orders, metrics, analyzer, threshold, density, settings: as for
            `deepstruct.batch`.
        every: steps between two measurements.
        out: where rows go, one or several: a store (.db), .csv, .jsonl, "tensorboard:folder", or what a plugin takes.
            The last rows are `tracker.rows` in any case.
        name: of the run in the rows; the name of the class and the time without it.
        verbose: say on stderr at the end what it cost.

    Raises:
        InputError: for arguments that make no sense.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module to track, got {type(model).__name__}")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InputError(f"every must be a whole number of steps, at least 1, got {every!r}")
    targets = [os.fspath(out)] if isinstance(out, (str, os.PathLike)) else [os.fspath(target) for target in out]

    def spec(twin: nn.Module) -> Any:
        from deepstruct.checkpoints.spec import BatchSpec

        return BatchSpec(
            twin, example_input, example_kwargs, (orders,) if isinstance(orders, str) else tuple(orders),
            metrics if metrics is None or isinstance(metrics, str) else tuple(metrics),
            analyzer or ("operator" if metrics is None else "auto"), settings=dict(settings or {}),
            structure={"threshold": threshold, "density": density},
        )  # fmt: skip

    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Tracker(model, spec, every, targets, name or f"{type(model).__name__}-{stamp}", verbose)
