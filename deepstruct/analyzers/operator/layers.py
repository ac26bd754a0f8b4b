"""Layer-scope metrics: one number for every space of units."""

from __future__ import annotations

import math
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import passes
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.structure.operators import EdgeOperator
from deepstruct.structure.space import Space
from deepstruct.structure.weights import weight_unions


def _space_of(view: OperatorView, op: EdgeOperator) -> Space:
    """The space that an operator writes to (its own, also where that is part of a later sum)."""
    offsets = [s.offset for s in view.structure.spaces]
    return view.structure.spaces[int(np.searchsorted(offsets, op.target.first_slot, side="right")) - 1]


def _sum_by_space(view: OperatorView, amounts: list[int]) -> dict[str, int]:
    out = {s.name: 0 for s in view.structure.spaces}
    for op, amount in zip(view.structure.operators, amounts, strict=True):
        out[_space_of(view, op).name] += amount
    return out


def _edges(view: OperatorView) -> dict[str, int]:
    return _sum_by_space(view, view.structure.operator_edges)


def _weight_edges(view: OperatorView) -> dict[str, int]:
    counts = [
        n if op.weighted else 0 for n, op in zip(view.structure.operator_edges, view.structure.operators, strict=True)
    ]
    return _sum_by_space(view, counts)


def _effective_edges(view: OperatorView) -> dict[str, int]:
    return _sum_by_space(view, view.effective_edges)


def _nodes(view: OperatorView) -> dict[str, int]:
    return {s.name: view.structure.nodes_in(s) for s in view.structure.spaces}


def _effective_nodes(view: OperatorView) -> dict[str, int]:
    return view.effective_by_space


def _weights(part: int) -> Callable[[OperatorView], dict[str, int]]:
    return lambda view: {name: both[part] for name, both in _stored(view).items()}


_known: WeakKeyDictionary[OperatorView, dict[str, tuple[int, int]]] = WeakKeyDictionary()


def _stored(view: OperatorView) -> dict[str, tuple[int, int]]:
    """Stored weights and those that are edges, by space; counted once for all metrics that ask."""
    if view not in _known:
        mine: dict[str, list[EdgeOperator]] = {}
        for op in view.structure.operators:
            if op.weighted:
                mine.setdefault(_space_of(view, op).name, []).append(op)
        names = (space.name for space in view.structure.spaces if space.name in mine)
        _known[view] = {name: weight_unions(mine[name], lambda op: True) for name in names}
    return _known[view]


def _density(view: OperatorView) -> dict[str, float]:
    total, kept = _weights(0)(view), _weights(1)(view)
    return {name: kept[name] / total[name] for name in total if total[name]}


def _dead(vector: str) -> Callable[[OperatorView], dict[str, int]]:
    return lambda view: view.hidden_without(vector)


def _mean(vector: str) -> Callable[[OperatorView], dict[str, float]]:
    def compute(view: OperatorView) -> dict[str, float]:
        means = {}
        for name, counts in view.degree_counts_by_space(vector).items():
            if counts.sum():
                means[name] = float(np.arange(len(counts)) @ counts) / int(counts.sum())
        return means

    return compute


def _synflow(view: OperatorView) -> dict[str, float]:
    view.need_dag()
    out: dict[str, float] = {}
    for op, amount in zip(view.graph.operators, passes.synflow(view.graph), strict=True):
        if op.weighted:
            name = _space_of(view, op).name
            out[name] = out.get(name, 0.0) + amount
    if not all(map(math.isfinite, out.values())):
        raise MetricError("SynFlow is not finite: it overflows float64, or a weight is not finite")
    return out


def _layer(
    name: str, compute: Callable[[OperatorView], dict[str, int] | dict[str, float]], definition: str
) -> Metric:
    return Metric(
        f"layer_{name}", "operator", compute, scope="layer", orders=("zeroth", "first"), definition=definition
    )


METRICS: list[Metric] = [
    _layer("nodes", _nodes, "Nodes of the layer; units that are part of a later sum count there."),
    _layer("edges", _edges, "Edges into the layer's units."),
    _layer("weight_edges", _weight_edges, "Edges into the layer's units through a non-zero weight."),
    _layer("weights", _weights(0), "Stored weights of the layer, tied ones once."),
    _layer("nonzero_weights", _weights(1), "Stored weights of the layer that are edges."),
    _layer("density", _density, "nonzero_weights / weights of the layer."),
    _layer("effective_nodes", _effective_nodes, "Nodes of the layer on a path from an input to an output."),
    _layer("effective_edges", _effective_edges, "Edges into the layer on a path from an input to an output."),
    _layer("dead_in", _dead("in_degree"), "Hidden nodes of the layer without an in-edge."),
    _layer("dead_out", _dead("out_degree"), "Hidden nodes of the layer without an out-edge."),
    _layer("in_degree_mean", _mean("in_degree"), "Mean in-degree of the layer's nodes."),
    _layer("out_degree_mean", _mean("out_degree"), "Mean out-degree of the layer's nodes."),
    Metric(
        "layer_synflow", "operator", _synflow, scope="layer", orders=("zeroth",), default=False, requires=("dag",),
        definition="Sum over the layer's weights of |w| dR/d|w|, R the L1 path norm; the same for every layer of a "
        "chain.",
        source="Tanaka et al. 2020",
    ),
]
