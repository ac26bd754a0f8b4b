"""Robustness metrics of the operator analyzer: attack curves by masked sweeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from deepstruct.analyzers.operator.memo import once, steps
from deepstruct.analyzers.operator.sampling import sample
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import brandes
from deepstruct.engine.masked_sweep import effective_after
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import sweep
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.robustness import SCHNEIDER, definition, plan
from deepstruct.metrics.table import no_path

_SHIFT = 2.0**-900  # path counts up to 2**1900 fit float64 when they start from here


def _degree(view: OperatorView) -> npt.NDArray[np.int64]:
    return view.in_degree + view.out_degree


def _paths(view: OperatorView) -> npt.NDArray[np.float64]:
    """log2 of the number of input-output paths through each node, -inf where there is none."""
    view.need_dag()
    graph, semiring = view.graph, Counting()
    ahead = sweep(graph, graph.is_source.to(torch.float64) * _SHIFT, semiring)
    back = sweep(graph, graph.is_output.to(torch.float64) * _SHIFT, semiring, transpose=True)
    counts = view.nodes(torch.log2(ahead) + torch.log2(back))
    if np.isposinf(counts).any() or np.isnan(counts).any():
        raise MetricError("path counts are beyond the range of floats: nodes cannot be ranked by them")
    return counts


def _betweenness(view: OperatorView) -> npt.NDArray[np.float64]:
    """Betweenness from sampled sources (all nodes where there are no more than that), after Brandes."""
    walk = steps(view, "betweenness")
    chosen = once(view, "sample", lambda: sample(view))
    return view.nodes(once(view, "dependencies", lambda: brandes.dependencies(walk, chosen.slots)))


SCORES: dict[str, Callable[[OperatorView], npt.NDArray[np.float64] | npt.NDArray[np.int64]] | None] = {
    "random": None, "degree": _degree, "paths": _paths, "betweenness": _betweenness,
}  # fmt: skip


def _curve(order: str, edges: bool) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        view.need_nodes()
        view.need_explicit_units("the removal of nodes")
        how, score = plan(view.context.settings), SCORES[order]
        removed = how.removals(view.is_hidden, None if score is None else score(view))
        (whole,) = effective_after(view.graph, [np.empty(0, np.int64)], edges=edges)
        if whole == 0:
            raise no_path()
        return how.area(effective_after(view.graph, removed, edges=edges), whole)

    return compute


METRICS: list[Metric] = [
    Metric(
        f"robustness_{counted}{order}", "operator", _curve(order, counted == "edges_"),
        definition=definition(counted, order), source=SCHNEIDER, exact=False, default=False,
        requires=("dag",) if order == "paths" else (),
    )
    for order in SCORES
    for counted in ("", "edges_")
]  # fmt: skip
