"""Measuring one checkpoint after the other for one question, in one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deepstruct.checkpoints.architecture import Architecture
from deepstruct.checkpoints.match import match_state
from deepstruct.checkpoints.matrices import (
    NOTE,
    SPECTRA,
    Matrices,
    count_parameters,
    holds_without_model,
    weight_matrices,
)
from deepstruct.checkpoints.spec import BatchSpec
from deepstruct.errors import CheckpointError, DeepstructError
from deepstruct.metrics.base import Metric, Skipped
from deepstruct.plugin import Registry

if TYPE_CHECKING:
    from deepstruct.report import Report
    from deepstruct.structure.graph import StructureGraph

_REMEMBERED = 8  # architectures that a process keeps


@dataclass(frozen=True)
class Measurement:
    """What was measured of one checkpoint.

    Attributes:
        report: values and what was skipped.
        parameters: of the model; without one, elements of what looks like parameters.
        architecture: fingerprint of the traced model.
        kind: "model", or "weights" where there was no model.
        notes: remarks on the checkpoint.
        reused: stored tensors whose values were those of the checkpoint before.
    """

    report: Report
    parameters: int
    architecture: str
    kind: str
    notes: tuple[str, ...] = ()
    reused: int = 0


class Bench:
    """Answers one question for any number of state dicts; keeps the architectures that it has traced."""

    def __init__(self, spec: BatchSpec, registry: Registry) -> None:
        self.spec, self.registry = spec, registry
        self._fixed: Architecture | None = None
        self._known: OrderedDict[Any, Architecture] = OrderedDict()
        self._refused: dict[Any, str] = {}

    def model(self) -> Architecture | None:
        """The architecture that the user named, traced at the first call; None without a model."""
        if self._fixed is None and self.spec.model is not None:
            model = self.spec.build()
            assert model is not None
            self._fixed = Architecture(model, self.spec)
        return self._fixed

    def measure(self, state: Mapping[str, Tensor], source: str, place: Path | None = None) -> Measurement:
        """All values for one state dict. `source` is its name in messages, `place` the file or folder that it is of."""
        architecture, note = self.model() or self._told_by_plugin(state, source), ""
        if architecture is None and place is not None:
            architecture, note = self._told_by_config(state, source, place)
        if architecture is None:
            return self._apart(state, source, note)
        name = type(architecture.model).__name__
        match = match_state(state, architecture.expected, source, name, architecture.ties)
        graph, reused = architecture.swap(match.state)
        report = self._analyze(graph, self.spec.metrics)
        notes = (*match.notes, note) if note else match.notes
        return Measurement(report, graph.num_parameters, architecture.fingerprint, "model", notes, reused)

    def _analyze(self, graph: StructureGraph, metrics: Any) -> Report:
        from deepstruct.api import analyze

        spec = self.spec
        return analyze(
            graph, orders=spec.orders, metrics=metrics, analyzer=spec.analyzer, max_memory=spec.max_memory,
            max_seconds=spec.max_seconds, settings=dict(spec.settings) or None, progress=False, **dict(spec.options),
        )  # fmt: skip

    def _told_by_plugin(self, state: Mapping[str, Tensor], source: str) -> Architecture | None:
        """The architecture that a plugin knows for the checkpoint."""
        model = self.registry.checkpoint_model(state, source)
        if model is None:
            return None
        key = ("model", type(model), _signature(model.state_dict()))
        return self._remembered(key, lambda: Architecture(model.eval(), self.spec))

    def _told_by_config(
        self, state: Mapping[str, Tensor], source: str, place: Path
    ) -> tuple[Architecture | None, str]:
        """The model that a Hugging Face folder describes, and how it was found, or why it was not."""
        from deepstruct.checkpoints.huggingface import described

        config = described(place)
        if config is None:
            return None, ""
        key = ("config", config.text)
        if key not in self._known and key not in self._refused:
            try:
                model = config.build(state, source, self.spec.seed)
                self._remembered(key, lambda: Architecture(model, self.spec))
            except DeepstructError as error:
                why = " ".join(str(error).split())
                note = f"the model that its {config.name} describes is not used: {why}"
                if not isinstance(error, CheckpointError):  # another state will not help
                    self._refused[key] = note
                return None, note
        if key in self._refused:
            return None, self._refused[key]
        architecture = self._known[key]
        return architecture, f"measured as the {type(architecture.model).__name__} that its {config.name} describes"

    def _apart(self, state: Mapping[str, Tensor], source: str, note: str = "") -> Measurement:
        """What the weights tell without a model."""
        weights = weight_matrices(state, source)

        def trace() -> Architecture:
            model = Matrices(weights).eval()
            return Architecture(model, self.spec, model.example())

        architecture = self._remembered(("weights", _signature(weights)), trace)
        model = architecture.model
        assert isinstance(model, Matrices)
        graph, reused = architecture.swap(model.named(weights))
        metrics, left = self._without_model()
        report = self._analyze(graph, metrics)
        report.skipped[:] = [line for line in report.skipped if "not offered at order" not in line.reason]
        report.skipped += [Skipped(name, "", "it says something across layers: name a model") for name in left]
        notes = (NOTE, note) if note else (NOTE,)
        return Measurement(report, count_parameters(state), architecture.fingerprint, "weights", notes, reused)

    def _without_model(self) -> tuple[list[str], list[str]]:
        """(metrics to compute, those asked for that need the model)."""
        from deepstruct.analyzers.select import wanted_names

        by_name: dict[str, Metric] = {}
        for metric in self.registry.metrics:
            by_name.setdefault(metric.name, metric)
        asked = self.spec.metrics
        every: Iterable[str] = (
            name for order in self.spec.orders for name in wanted_names(asked, order, self.registry)
        )
        names = list(dict.fromkeys([*every, *(SPECTRA if asked is None else ())]))
        hold = [name for name in names if name in by_name and holds_without_model(by_name[name])]
        named = asked is not None and asked != "all"
        return hold, [name for name in names if name not in hold] if named else []

    def _remembered(self, key: Any, make: Callable[[], Architecture]) -> Architecture:
        if key not in self._known:
            self._known[key] = make()
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def _signature(state: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in state.items() if isinstance(value, Tensor))
