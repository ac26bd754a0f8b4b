"""Homology metrics of the operator analyzer: neural persistence, stored and unrolled, and Betti numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.stored import weighted_operators
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import budget
from deepstruct.engine.orbits import orbits, unrolled_persistence
from deepstruct.engine.persistence import Persistence, neural_persistence, weight_layers
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.connectivity import MEAN_SIZE
from deepstruct.metrics.homology import BETA_0, BETA_1, RIECK
from deepstruct.metrics.reachability import MGE

_LAYERS = (
    "Layers are stored weights, each once: the complete bipartite graph of its input and output channels, with |w| "
    "over the largest |w| of all layers, absent connections 0; of several taps of a kernel the strongest."
)
_ESSENTIAL = "The class that never dies is paired with 0 and adds 1, as in the authors' code."
_FINITE = "The class that never dies is left out, so that values lie between 0 and 1."


_UNROLLED = (
    "Layers are spaces of units: the complete bipartite graph of the units that a layer reads and those that it "
    "writes through weights, with |w| over the largest |w| of all layers, absent connections 0."
)
_LIMIT = 2e8  # edges of one layer that are written down, at most

Found = dict[str, Persistence]


def _stored(view: OperatorView) -> tuple[Found, str]:
    def compute() -> tuple[Found, str]:
        layers = weight_layers(view.graph)
        if not layers:
            raise MetricError("the model has no weights")
        return neural_persistence(layers), ""

    return once(view, "neural persistence", compute)


def _unrolled(view: OperatorView) -> tuple[Found, str]:
    """Persistence of the layers whose spanning trees were found, and a note that names the others."""
    limit = float(view.context.settings.get("max_operations", _LIMIT))

    def compute() -> tuple[Found, str]:
        layers = {name: (ops, [orbits(op) for op in ops]) for name, ops in weighted_operators(view).items()}
        values = [o.value.max() for _, found in layers.values() for o in found if len(o.value)]
        if not layers:
            raise MetricError("the model has no weights")
        largest, out, refused = max(values, default=0.0) or 1.0, {}, []
        for name, (ops, found) in layers.items():
            budget.check()
            try:
                out[name] = unrolled_persistence(view.graph, ops, found, largest, limit)
            except CapacityError:
                refused.append(name)
        if not out:
            raise CapacityError(
                f"every layer's spanning tree takes more than {limit:.2g} edges (setting 'max_operations'); "
                "neural_persistence is that of the stored weights"
            )
        note = f"left out, more than {limit:.2g} edges (setting 'max_operations'): {', '.join(refused)}"
        return out, note if refused else ""

    return once(view, "unrolled persistence", compute)


Source = Callable[[OperatorView], tuple[Found, str]]


def _layer(find: Source, essential: bool, normalized: bool) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        found, note = find(view)
        values = {
            name: p.normalized(essential=essential) if normalized else p.total(essential=essential)
            for name, p in found.items()
        }
        return Measured(values, note=note)

    return compute


def _mean(find: Source, essential: bool) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        found, note = find(view)
        return Measured(float(np.mean([p.normalized(essential=essential) for p in found.values()])), note=note)

    return compute


def _metrics() -> list[Metric]:
    made = []
    for prefix, find, layers, size in (
        ("", _stored, _LAYERS, "n - c)^(1/2), with n channels in c components"),
        ("unrolled_", _unrolled, _UNROLLED, "n - 1)^(1/2), with n units"),
    ):
        for suffix, essential, text in (("", True, _ESSENTIAL), ("_finite", False, _FINITE)):
            neural, total = f"{prefix}neural_persistence{suffix}", f"{prefix}total_persistence{suffix}"
            made += [
                Metric(
                    neural, "operator", _mean(find, essential), orders=("zeroth",), default=False, source=RIECK,
                    definition=f"Mean over the layers of layer_{neural}.",
                ),
                Metric(
                    f"layer_{neural}", "operator", _layer(find, essential, True), scope="layer", orders=("zeroth",),
                    default=False, source=RIECK, definition=f"layer_{total} over ({size}.",
                ),
                Metric(
                    f"layer_{total}", "operator", _layer(find, essential, False), scope="layer", orders=("zeroth",),
                    default=False, source=RIECK,
                    definition=f"2-norm of 1 - w over the weights w of a maximum spanning tree. {layers} {text}",
                ),
            ]  # fmt: skip
    return made


METRICS: list[Metric] = [
    Metric("beta_0", "operator", lambda view: len(view.components), definition=BETA_0),
    Metric(
        "beta_1", "operator", lambda view: view.structure.num_edges - view.structure.num_nodes + len(view.components),
        definition=BETA_1,
    ),
    Metric(
        "component_size_mean", "operator", lambda view: view.structure.num_nodes / len(view.components),
        definition=MEAN_SIZE, source=MGE, default=False, requires=("nonempty",),
    ),
    *_metrics(),
]  # fmt: skip
