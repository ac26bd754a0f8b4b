"""Distances from sampled nodes, with error bars, and bounds: the graph is never searched from every node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.memo import once, steps
from deepstruct.analyzers.operator.sampling import Sample, sample
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import brandes, hyperball, passes
from deepstruct.engine.bfs import Direction
from deepstruct.engine.components import component_labels
from deepstruct.engine.survey import Survey, diameter_bounds, eccentricity_bounds, survey
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric

_TIES = 64  # largest components of one size that are all searched


def _survey(view: OperatorView, direction: Direction = "both") -> tuple[Sample, Survey]:
    walk = steps(view, "a breadth-first search")
    chosen = once(view, "sample", lambda: sample(view))
    return chosen, once(view, f"survey {direction}", lambda: survey(walk, chosen.slots, direction))


def _measured(value: Any, chosen: Sample, error: float | None = None) -> Measured:
    if chosen.complete:
        return Measured(value, note="all nodes")
    note = chosen.note if error is None else f"{chosen.note}; standard error {error:.3g}"
    return Measured(value, exact=False, note=note)


def _mean_distance(direction: Direction) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        chosen, found = _survey(view, direction)
        away = found.levels[:, 1:].astype(np.float64)
        pairs, total = away.sum(1), away @ np.arange(1.0, away.shape[1] + 1)
        if not pairs.any():
            raise MetricError("no sampled node leads to another one")
        return _measured(float(total.sum() / pairs.sum()), chosen, chosen.error_of_ratio(total, pairs))

    return compute


def _efficiency(view: OperatorView) -> Measured:
    chosen, found = _survey(view)
    if view.graph.num_nodes < 2:
        return _measured(0.0, chosen)
    away = found.levels[:, 1:].astype(np.float64)
    each = away @ (1 / np.arange(1.0, away.shape[1] + 1)) / (view.graph.num_nodes - 1)
    return _measured(float(each.mean()), chosen, chosen.error_of_mean(each))


def _closeness(view: OperatorView) -> Measured:
    chosen, found = _survey(view)
    values = torch.where(found.reached > 0, found.reached / found.total.clamp(min=1), 0)
    return _measured(view.nodes(values), chosen)


def _harmonic(view: OperatorView) -> Measured:
    chosen, found = _survey(view)
    return _measured(view.nodes(found.inverse * (chosen.population / chosen.size)), chosen)


def _eccentricity(which: int) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        chosen, found = _survey(view)
        walk = steps(view, "eccentricity bounds")
        bounds = once(
            view, "eccentricities", lambda: eccentricity_bounds(walk, chosen.slots, found.eccentricities)
        )
        return Measured(view.nodes(bounds[which]), note=f"from {chosen.size} of {chosen.population} nodes")

    return compute


def _diameter(view: OperatorView) -> tuple[int, int]:
    walk = steps(view, "diameter bounds")
    view.need_nodes()

    def compute() -> tuple[int, int]:
        graph = view.graph
        alone = graph.is_node & (passes.in_degree(graph) + passes.out_degree(graph) == 0)
        labels = component_labels(graph, alone)
        found, sizes = torch.unique(labels[labels >= 0], return_counts=True)
        largest = found[sizes == sizes.max()]
        if int(sizes.max()) == 1:
            return 0, 0
        if largest.numel() > _TIES:
            raise MetricError(f"{largest.numel()} components are the largest: more than {_TIES} are not searched")
        # the label of a component is the slot of one of its nodes, or of a part of one
        firsts = [int((labels == label).to(torch.uint8).argmax()) for label in largest.tolist()]
        bounds = [diameter_bounds(walk, first) for first in firsts]
        return max(low for low, _ in bounds), max(high for _, high in bounds)

    return once(view, "diameter", compute)


def _betweenness(view: OperatorView) -> Measured:
    walk = steps(view, "betweenness")
    chosen = once(view, "sample", lambda: sample(view))
    total = once(view, "dependencies", lambda: brandes.dependencies(walk, chosen.slots))
    return _measured(view.nodes(total * (chosen.population / chosen.size)), chosen)


def _betweenness_of(summary: Callable[[np.ndarray], float]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        node = _betweenness(view)
        return Measured(summary(node.value), exact=node.exact, note=node.note)

    return compute


def _balls(view: OperatorView) -> hyperball.Balls:
    walk = steps(view, "HyperBall")
    view.need_nodes()
    settings = view.context.settings
    size, seed = int(settings.get("hyperball_log2m", 6)), int(settings.get("sample_seed", 0))
    need, limit = (1 << size) * view.graph.num_slots, view.context.max_memory
    if need > limit:
        raise MetricError(
            f"the registers of HyperBall need about {need / 2**30:.3g} GiB, more than the budget of "
            f"{limit / 2**30:.3g} GiB (max_memory): take a smaller setting 'hyperball_log2m'"
        )
    return once(view, "hyperball", lambda: hyperball.balls(walk, size, seed))


def _ball_note(found: hyperball.Balls) -> str:
    return f"relative standard error of a counter {found.error:.3g}"


def _ball_mean(view: OperatorView) -> Measured:
    found = _balls(view)
    if math.isnan(found.mean_distance):
        raise MetricError("no two nodes of the graph are joined by an edge")
    return Measured(found.mean_distance, exact=False, note=_ball_note(found))


def _ball_harmonic(view: OperatorView) -> Measured:
    found = _balls(view)
    return Measured(view.nodes(found.harmonic), exact=False, note=_ball_note(found))


_SAMPLED = "sampled: setting 'samples', 64"
_HYPERBALL = "Boldi & Vigna 2013, HyperBall (to be checked)"


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    options.setdefault("requires", ("nonempty",))
    return Metric(name, "operator", compute, definition=definition, default=False, **options)


METRICS: list[Metric] = [
    _own("average_path_length_sampled", _mean_distance("both"), source="You et al. 2020",
         definition="average_path_length estimated from searches that start at some nodes: mean distance from them to "
                    f"the other nodes of their component, undirected ({_SAMPLED}); standard error in the note."),
    _own("directed_average_path_length_sampled", _mean_distance("out"),
         definition="Mean number of edges of the shortest directed paths from some nodes to every other node that they "
                    f"lead to ({_SAMPLED}); standard error in the note."),
    _own("global_efficiency_sampled", _efficiency, source="networkx.global_efficiency",
         definition=f"global_efficiency estimated from searches that start at some nodes ({_SAMPLED}); standard error "
                    "in the note."),
    _own("closeness_sampled", _closeness, scope="node", source="Eppstein & Wang 2004 (to be checked)",
         definition="closeness estimated from some nodes: 1 / mean distance from those in the node's component, the "
                    f"node itself left out, undirected; 0 where there is none ({_SAMPLED})."),
    _own("harmonic_centrality_sampled", _harmonic, scope="node",
         definition="harmonic_centrality estimated from some nodes: the sum of 1 / distance from them, scaled up to "
                    f"all nodes, undirected ({_SAMPLED})."),
    _own("eccentricity_lower_bound", _eccentricity(0), scope="node",
         definition="Lower bound of the distance to the farthest node of the component, undirected, from searches that "
                    f"start at some nodes; NaN in components without one ({_SAMPLED})."),
    _own("eccentricity_upper_bound", _eccentricity(1), scope="node",
         definition="Upper bound of the distance to the farthest node of the component, undirected, from searches that "
                    f"start at some nodes; NaN in components without one ({_SAMPLED})."),
    _own("diameter_lower_bound", lambda v: _diameter(v)[0], source="double sweep",
         definition="Lower bound of diameter: the largest distance that alternating searches from far and middle nodes "
                    "of the largest component meet, undirected."),
    _own("diameter_upper_bound", lambda v: _diameter(v)[1], source="double sweep",
         definition="Upper bound of diameter: twice the smallest eccentricity that these searches meet, undirected."),
    _own("betweenness_sampled", _betweenness, scope="node", source="Brandes 2001; Brandes & Pich 2007 (to be checked)",
         definition="betweenness estimated from some sources: the sum of their dependencies on the node, scaled up to "
                    f"all nodes, directed, unnormalized; parallel edges make different shortest paths ({_SAMPLED})."),
    _own("betweenness_sampled_mean", _betweenness_of(lambda v: float(v.mean())),
         definition=f"Mean of betweenness_sampled over the nodes ({_SAMPLED})."),
    _own("betweenness_sampled_max", _betweenness_of(lambda v: float(v.max())),
         definition=f"Largest betweenness_sampled of a node ({_SAMPLED})."),
    _own("average_path_length_hyperball", _ball_mean, source=_HYPERBALL, exact=False,
         definition="average_path_length estimated by HyperLogLog counters of the balls around all nodes, undirected "
                    "(setting 'hyperball_log2m', 6: 64 registers for each node)."),
    _own("harmonic_centrality_hyperball", _ball_harmonic, scope="node", source=_HYPERBALL, exact=False,
         definition="harmonic_centrality estimated by HyperLogLog counters of the balls around the node, undirected."),
]  # fmt: skip
