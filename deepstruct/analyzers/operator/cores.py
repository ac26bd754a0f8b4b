"""k-cores of the undirected multigraph: nodes that hold together when those with few edges are taken away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepstruct.analyzers.operator.memo import once, steps
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import cores, passes
from deepstruct.metrics import connectivity
from deepstruct.metrics.base import Measured, Metric

_SHARED = {m.name: m for m in connectivity.METRICS}


def _cores(view: OperatorView) -> tuple[np.ndarray, str]:
    walk = steps(view, "multigraph_core_number")

    def compute() -> cores.Cores:
        return cores.core_numbers(walk, passes.in_degree(view.graph) + passes.out_degree(view.graph))

    found = once(view, "cores", compute)
    return view.nodes(found.numbers), f"{found.rounds} rounds of peeling"


def _node(view: OperatorView) -> Measured:
    values, note = _cores(view)
    return Measured(values, note=note)


def _summary(read: Callable[[np.ndarray], float]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        view.need_nodes()
        values, note = _cores(view)
        return Measured(read(values), note=note)

    return compute


def _shared(name: str, compute: Callable[[OperatorView], Measured]) -> Metric:
    other = _SHARED[name]
    return Metric(
        name, "operator", compute, scope=other.scope, definition=other.definition, source=other.source,
        default=other.default,
    )  # fmt: skip


METRICS: list[Metric] = [
    _shared("multigraph_core_number", _node),
    _shared("multigraph_core_number_mean", _summary(lambda v: float(v.mean()))),
    _shared("multigraph_core_number_max", _summary(lambda v: int(v.max()))),
]
