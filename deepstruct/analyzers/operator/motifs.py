"""4-cycles (butterflies): of the whole graph, exact, bounded and sampled, and within each layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.sampling import sample
from deepstruct.analyzers.operator.stored import weighted_operators
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import budget
from deepstruct.engine.adjacency import symmetric_action
from deepstruct.engine.bipartite import Unrolled, degrees
from deepstruct.engine.blocks import graph_butterflies
from deepstruct.engine.butterflies import operator_butterflies
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.clustering import METRICS as CLUSTERING

_LIMIT = 5e10  # multiplications: about two seconds of dense products


def _whole(simple: bool) -> Callable[[OperatorView], int]:
    def compute(view: OperatorView) -> int:
        view.need_explicit_units("butterflies")
        limit = float(view.context.settings.get("max_operations", _LIMIT))
        return graph_butterflies(
            view.graph, simple=simple, max_memory=view.context.max_memory, max_operations=limit
        )

    return compute


def _simple(view: OperatorView, what: str) -> None:
    """Refuse graphs whose 4-cycles are not those of their adjacency matrix, and what needs a slot for each unit."""
    view.need_nodes()
    view.need_explicit_units(what)
    parallel = view.graph.num_parallel_edges
    if parallel is None:
        raise CapacityError(f"{what}: whether edges are parallel is told from the explicit graph, which is too large")
    if parallel or not view.graph.is_dag:
        raise MetricError(f"{what} takes acyclic graphs without parallel edges; butterflies counts in others")


def _upper(view: OperatorView) -> int:
    """Every 4-cycle holds four paths of three edges, each with another of its edges in the middle."""
    view.need_nodes()
    view.need_explicit_units("butterflies_upper_bound")
    degree = view.in_degree_slots + view.out_degree_slots
    ends = torch.where(view.graph.is_node, (degree - 1).clamp(min=0), 0.0)
    paths = view.dot(ends, symmetric_action(view.graph, ends)) / 2
    if paths >= 2.0**53:
        # beyond what float64 counts by ones: rounded up, so that it stays a bound
        return int(paths / 4 * (1 + 1e-12))
    return int(paths) // 4


def _sampled(view: OperatorView) -> Measured:
    """Of each sampled node the 4-cycles through it; each is met from its four nodes."""
    _simple(view, "butterflies_sampled")
    chosen = sample(view)
    through, spots = [], torch.zeros(view.graph.num_slots, dtype=torch.float64)
    for slot in chosen.slots.tolist():
        budget.check()
        spots[slot] = 1
        shared = symmetric_action(view.graph, symmetric_action(view.graph, spots))
        spots[slot] = shared[slot] = 0
        through.append(view.dot(shared, shared - 1) / 2)
    each = np.array(through) * chosen.population / 4
    if chosen.complete:
        return Measured(round(float(each.mean())), note="all nodes")
    error = chosen.error_of_mean(each)
    return Measured(
        float(each.mean()), exact=False, residual=error, note=f"{chosen.note}; the residual is the standard error"
    )


def _within(view: OperatorView) -> tuple[dict[str, int], list[str]]:
    """(4-cycles of each layer that one operator writes through weights, layers that have another form)."""

    def compute() -> tuple[dict[str, int], list[str]]:
        found, other = {}, []
        for name, ops in weighted_operators(view).items():
            budget.check()
            count = operator_butterflies(view.graph, ops[0]) if len(ops) == 1 else None
            if count is None:
                other.append(name)
            else:
                found[name] = count
        return found, other

    return once(view, "butterflies within layers", compute)


def _note(other: list[str]) -> str:
    return f"not counted (several operators, or tables that read a unit twice): {', '.join(other)}" if other else ""


def _layer(view: OperatorView) -> Measured:
    found, other = _within(view)
    return Measured(found, note=_note(other))


def _sum(view: OperatorView) -> Measured:
    found, other = _within(view)
    if not found:
        raise MetricError("no layer has a form whose 4-cycles are counted without writing its edges down")
    return Measured(sum(found.values()), note=_note(other))


def _clustering(view: OperatorView) -> Measured:
    found, other = _within(view)
    out = {}
    for name, count in found.items():
        layer = Unrolled(view.graph, weighted_operators(view)[name])
        sums = degrees(layer)
        # paths of three edges: every edge as the middle one
        paths = float(torch.dot(layer.forward(sums.left - 1), sums.right - 1))
        out[name] = 4 * count / paths if paths else 0.0
    return Measured(out, note=_note(other))


def _definition() -> tuple[str, str]:
    other = next(m for m in CLUSTERING if m.name == "butterflies")
    return other.definition, other.source


_ZEROTH = ("zeroth",)
METRICS: list[Metric] = [
    Metric("butterflies", "operator", _whole(True), definition=_definition()[0], source=_definition()[1],
           default=False),
    Metric("butterflies_multigraph", "operator", _whole(False), default=False,
           definition="Number of 4-cycles of four different nodes, undirected, where parallel edges make different "
           "cycles; across layers as well."),
    Metric("butterflies_upper_bound", "operator", _upper, default=False, requires=("nonempty",),
           definition="Upper bound of butterflies_multigraph, and so of butterflies, at any size: a quarter of the "
           "three-edge walks u-v-w-x with other edges before and after v-w, direction dropped, across layers as well; "
           "equal to them in complete bipartite graphs. butterflies_within_layers is the lower bound."),
    Metric("butterflies_sampled", "operator", _sampled, default=False, requires=("nonempty",),
           definition="Estimate of butterflies at any size, across layers as well, from the 4-cycles through sampled "
           "nodes (setting 'samples', 64); the residual is the standard error. Acyclic graphs without parallel edges."),
    Metric("layer_butterflies", "operator", _layer, scope="layer", orders=_ZEROTH, default=False,
           definition="Number of 4-cycles of two units of the layer and two that they read through weights, in the "
           "unrolled layer; exact at any size by the translation symmetry of convolutions. 4-cycles across layers "
           "are not among them.", source="Latapy, Magnien & Del Vecchio 2008"),
    Metric("butterflies_within_layers", "operator", _sum, orders=_ZEROTH, default=False,
           definition="Sum over the layers of layer_butterflies: a lower bound of butterflies, which counts those "
           "across layers too.", source="Latapy, Magnien & Del Vecchio 2008"),
    Metric("layer_bipartite_clustering", "operator", _clustering, scope="layer", orders=_ZEROTH, default=False,
           definition="4 x butterflies / paths of three edges, of the unrolled layer as a bipartite graph; 0 where "
           "there is no such path.", source="Robins & Alexander 2004; networkx.robins_alexander_clustering"),
]  # fmt: skip
