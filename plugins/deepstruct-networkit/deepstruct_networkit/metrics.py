"""Metrics by NetworKit, on the graph without directions, parallel edges and self-loops unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric, Setting
from deepstruct_networkit.analyzer import SEED

if TYPE_CHECKING:
    from deepstruct_networkit.analyzer import NetworkitView

EPSILON = Setting("networkit_epsilon", 0.05, "Absolute error of sampled betweenness and closeness (networkit).")
_DELTA = 0.1
_SIMPLE = "direction dropped, parallel edges and self-loops left out"
KADABRA = "Borassi and Natale 2016 (KADABRA)"
RIONDATO = "Riondato and Kornaropoulos 2016"
PLM_SOURCE = "Staudt and Meyerhenke 2016 (parallel Louvain)"


def _epsilon(view: NetworkitView) -> float:
    value = float(view.context.settings.get(EPSILON.name, EPSILON.default))
    if not 0 < value < 1:
        raise MetricError(f"setting {EPSILON.name!r} must lie between 0 and 1, got {value}")
    return value


def _betweenness(view: NetworkitView) -> Measured:
    import networkit

    view.need_edges()
    epsilon = _epsilon(view)
    networkit.setSeed(SEED, False)
    scores = networkit.centrality.ApproxBetweenness(view.simple, epsilon, _DELTA).run().scores()
    note = f"sampled: every node within {epsilon} with probability {1 - _DELTA}"
    return Measured(np.asarray(scores), exact=False, residual=epsilon, note=note)


def _largest_betweenness(view: NetworkitView) -> Measured:
    found = _betweenness(view)
    return Measured(float(found.value.max()), exact=False, residual=found.residual, note=found.note)


def _exact_betweenness(view: NetworkitView) -> np.ndarray:
    import networkit

    view.need_nodes()
    if view.num_nodes < 3:  # no pair of other nodes
        return np.zeros(view.num_nodes)
    view.spend(view.num_nodes * float(max(len(view.undirected_pairs[0]), 1)), "betweenness")
    return np.asarray(networkit.centrality.Betweenness(view.simple, normalized=True).run().scores())


def _closeness(view: NetworkitView) -> Measured:
    """Inverse of the mean distance within the largest component; 0 elsewhere."""
    import networkit

    view.need_edges()
    graph = view.largest_component
    samples = min(graph.numberOfNodes(), int(np.ceil(np.log(max(graph.numberOfNodes(), 2)) / _epsilon(view) ** 2)))
    networkit.setSeed(SEED, False)
    scores = networkit.centrality.ApproxCloseness(graph, samples, _epsilon(view), True).run().scores()
    top = float(max(scores))
    return Measured(top, exact=False, note=f"{samples} sampled pivots in the largest component")


def _communities(view: NetworkitView) -> tuple[int, float]:
    import networkit

    def compute() -> tuple[int, float]:
        view.need_edges()
        networkit.setSeed(SEED, False)
        method = networkit.community.PLM(view.simple, True)
        partition = method.run().getPartition()
        quality = networkit.community.Modularity().getQuality(partition, view.simple)
        return int(partition.numberOfSubsets()), float(quality)

    return view.once("communities", compute)


def _cores(view: NetworkitView) -> np.ndarray:
    import networkit

    view.need_nodes()
    return np.asarray(networkit.centrality.CoreDecomposition(view.simple).run().scores()).astype(np.int64)


def _diameter(view: NetworkitView) -> int:
    import networkit

    view.need_nodes()
    algorithm = networkit.distance.DiameterAlgo.EXACT
    return int(networkit.distance.Diameter(view.largest_component, algo=algorithm).run().getDiameter()[0])


def _effective_diameter(view: NetworkitView) -> float:
    import networkit

    view.need_edges()
    return float(networkit.distance.EffectiveDiameter(view.largest_component, 0.9).run().getEffectiveDiameter())


def _components(view: NetworkitView) -> int:
    import networkit

    found = networkit.components.ConnectedComponents(view.simple).run()
    return int(found.numberOfComponents()) if view.num_nodes else 0


def _strong_components(view: NetworkitView) -> int:
    import networkit

    found = networkit.components.StronglyConnectedComponents(view.directed).run()
    return int(found.numberOfComponents()) if view.num_nodes else 0


def _clustering(view: NetworkitView) -> float:
    import networkit

    view.need_nodes()
    return float(np.mean(networkit.centrality.LocalClusteringCoefficient(view.simple).run().scores()))


def _metric(name: str, compute: Callable[[Any], Any], definition: str, **options: Any) -> Metric:
    return Metric(f"networkit_{name}", "networkit", compute, definition=definition, default=False, **options)


METRICS = [
    _metric("betweenness", _exact_betweenness,
            f"Share of the shortest paths between other nodes that run through a node; {_SIMPLE}.",
            scope="node", source="Freeman 1977, Brandes 2001", bounds=(0, 1)),
    _metric("betweenness_approx", _betweenness,
            f"networkit_betweenness over all ordered pairs, from sampled shortest paths; {_SIMPLE}.",
            scope="node", source=RIONDATO, exact=False, settings=(EPSILON,), bounds=(0, 1)),
    _metric("betweenness_approx_max", _largest_betweenness, "Largest networkit_betweenness_approx.",
            source=RIONDATO, exact=False, settings=(EPSILON,), bounds=(0, 1)),
    _metric("closeness_approx_max", _closeness,
            f"Largest (n - 1) / (sum of distances) of a node of the largest component, from sampled pivots; {_SIMPLE}.",
            source="Cohen et al. 2014", exact=False, settings=(EPSILON,)),
    _metric("communities", lambda view: _communities(view)[0],
            f"Number of communities that PLM with refinement finds, seed 0, one thread; {_SIMPLE}.",
            source=PLM_SOURCE, exact=False, bounds=(1, float("inf"))),
    _metric("modularity", lambda view: _communities(view)[1], f"Modularity of networkit_communities; {_SIMPLE}.",
            source=PLM_SOURCE, exact=False, bounds=(-0.5, 1)),
    _metric("core_numbers", _cores, f"Largest k such that a node is in the k-core; {_SIMPLE}.",
            scope="node", source="Batagelj and Zaversnik 2003", bounds=(0, float("inf"))),
    _metric("degeneracy", lambda view: int(_cores(view).max()), f"Largest core number; {_SIMPLE}.",
            source="Batagelj and Zaversnik 2003", bounds=(0, float("inf"))),
    _metric("diameter", _diameter, f"Longest shortest path in the largest component, exact; {_SIMPLE}.",
            bounds=(0, float("inf"))),
    _metric("effective_diameter", _effective_diameter,
            f"Distance within which 90 % of the pairs of the largest component lie, on average over nodes; {_SIMPLE}.",
            bounds=(0, float("inf"))),
    _metric("weak_components", _components, f"Connected components; {_SIMPLE}.", bounds=(0, float("inf"))),
    _metric("strong_components", _strong_components, "Strongly connected components of the directed graph.",
            bounds=(0, float("inf"))),
    _metric("average_clustering", _clustering, f"Mean share of a node's pairs of neighbors that are joined; {_SIMPLE}.",
            source="Watts and Strogatz 1998", bounds=(0, 1)),
]  # fmt: skip
