"""Distances in the undirected graph (direction dropped, parallel edges and self-loops too)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deepstruct.engine import budget
from deepstruct.metrics.reachability import MGE, nodes_asked_for
from deepstruct.metrics.table import all_pairs, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView
    from deepstruct.structure.graph import StructureGraph


def _histogram(view: IgraphView) -> dict[int, int]:
    """Number of unordered pairs of nodes at each distance: one search from every node serves all metrics."""
    search = view.simple.path_length_hist
    return view.once(
        "distances", lambda: {int(low): int(count) for low, _, count in search(directed=False).bins()}
    )


def average_path_length_igraph(view: IgraphView) -> float:
    view.need_edges()
    pairs = _histogram(view)
    return sum(distance * count for distance, count in pairs.items()) / sum(pairs.values())


def diameter_igraph(view: IgraphView) -> int:
    view.need_nodes()
    if len(view.undirected_pairs[0]) == 0:
        return 0
    components = view.simple.connected_components()
    sizes = np.asarray(components.sizes())
    largest = np.flatnonzero(sizes == sizes.max())
    if len(largest) == np.count_nonzero(sizes > 1):  # no other component has any distance
        return max(_histogram(view))
    return max(int(components.subgraph(int(index)).diameter(directed=False)) for index in largest)


def global_efficiency_igraph(view: IgraphView) -> float:
    nodes = view.num_nodes
    if nodes < 2 or len(view.undirected_pairs[0]) == 0:
        return 0.0
    return (
        2
        * math.fsum(count / distance for distance, count in _histogram(view).items())
        / (nodes * (nodes - 1))
    )


def _distances(view: NetworkxView) -> dict[int, dict[int, int]]:
    """How many ordered pairs of different nodes are at each distance, per component."""
    import networkx as nx

    def count() -> dict[int, dict[int, int]]:
        table: dict[int, dict[int, int]] = {}
        for index, component in enumerate(nx.connected_components(view.simple)):
            row = table.setdefault(index, {0: len(component)})
            for node in component:
                budget.check()
                for distance in nx.single_source_shortest_path_length(view.simple, node).values():
                    if distance:
                        row[distance] = row.get(distance, 0) + 1
        return table

    return view.once("distances", count)


def average_path_length_networkx(view: NetworkxView) -> float:
    view.need_edges()
    rows = _distances(view).values()
    total = sum(distance * count for row in rows for distance, count in row.items())
    return total / sum(count for row in rows for distance, count in row.items() if distance)


def diameter_networkx(view: NetworkxView) -> int:
    view.need_nodes()
    rows = _distances(view).values()
    largest = max(row[0] for row in rows)
    return max(max(row) for row in rows if row[0] == largest)


def global_efficiency_networkx(view: NetworkxView) -> float:
    import networkx as nx

    return float(nx.global_efficiency(view.simple))


def closeness_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    values = np.asarray(view.simple.closeness(normalized=True), np.float64).reshape(-1)
    return np.nan_to_num(values, nan=0.0)  # of a node without neighbors


def closeness_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    table = nx.closeness_centrality(view.simple, wf_improved=False)
    return np.array([table[node] for node in range(view.num_nodes)], np.float64)


def harmonic_centrality_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    values = np.asarray(view.simple.harmonic_centrality(normalized=False), np.float64).reshape(-1)
    return np.nan_to_num(values, nan=0.0)


def harmonic_centrality_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    table = nx.harmonic_centrality(view.simple)
    return np.array([table[node] for node in range(view.num_nodes)], np.float64)


def eccentricity_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    return np.asarray(view.simple.eccentricity(mode="all"), np.float64).reshape(-1)


def eccentricity_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    def farthest(node: int) -> int:
        return max(nx.single_source_shortest_path_length(view.simple, node).values())

    return np.array([farthest(node) for node in range(view.num_nodes)], np.float64)


def distance_from_nodes_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    nodes = nodes_asked_for(view, view.inputs)
    values = np.full(view.num_nodes, np.inf)
    for node in nodes.tolist():
        budget.check()
        values = np.minimum(values, np.asarray(view.simple_directed.distances(source=node, mode="out")[0], np.float64))
    return np.where(np.isinf(values), np.nan, values)


def distance_from_nodes_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    nodes = nodes_asked_for(view, view.inputs).tolist()
    values = np.full(view.num_nodes, np.nan)
    for step, layer in enumerate(nx.bfs_layers(view.simple_directed, nodes)):
        values[layer] = step
    return values


def two_step_neighborhood_mean_igraph(view: IgraphView) -> float:
    view.need_nodes()
    return float(np.mean(view.simple_directed.neighborhood_size(order=2, mode="out")))


def two_step_neighborhood_mean_networkx(view: NetworkxView) -> float:
    import networkx as nx

    view.need_nodes()
    graph = view.simple_directed
    reached = (nx.single_source_shortest_path_length(graph, node, cutoff=2) for node in graph)
    return float(np.mean([len(nodes) for nodes in reached]))


def _searches(graph: StructureGraph) -> float:
    """Steps of one search from every input."""
    return float(len(graph.input_nodes())) * (float(graph.num_nodes) + float(graph.num_edges))


TWO_STEP = (
    "Mean number of nodes within two steps along the edges, the node itself included; a node that several ways lead "
    "to counts once."
)

METRICS = [
    *on_both(
        "average_path_length",
        "Mean distance over all pairs of different nodes in the same component, undirected.",
        source="You et al. 2020",
        cost=all_pairs,
        igraph=average_path_length_igraph,
        networkx=average_path_length_networkx,
    ),
    *on_both(
        "diameter",
        "Largest distance within the largest component, undirected; of several components of that size, "
        "the largest such distance.",
        source="Stier 2019",
        cost=all_pairs,
        igraph=diameter_igraph,
        networkx=diameter_networkx,
    ),
    *on_both(
        "global_efficiency",
        "Mean of 1 / distance over all ordered pairs of different nodes, undirected; unconnected pairs "
        "add 0; 0 with fewer than two nodes.",
        source="networkx.global_efficiency",
        cost=all_pairs,
        igraph=global_efficiency_igraph,
        networkx=global_efficiency_networkx,
    ),
    *on_both(
        "closeness",
        "1 / mean distance to the other nodes of the same component, undirected; 0 where there is none.",
        source="Bavelas; networkx.closeness_centrality without the factor for the size of the component",
        scope="node",
        default=False,
        cost=all_pairs,
        igraph=closeness_igraph,
        networkx=closeness_networkx,
    ),
    *on_both(
        "harmonic_centrality",
        "Sum over the other nodes of 1 / distance, undirected; unconnected ones add 0.",
        source="networkx.harmonic_centrality",
        scope="node",
        default=False,
        cost=all_pairs,
        igraph=harmonic_centrality_igraph,
        networkx=harmonic_centrality_networkx,
    ),
    *on_both(
        "eccentricity",
        "Distance to the farthest node of the same component, undirected; 0 for a node without neighbors.",
        source="Stier 2019",
        scope="node",
        default=False,
        cost=all_pairs,
        igraph=eccentricity_igraph,
        networkx=eccentricity_networkx,
    ),
    *on_both(
        "distance_from_nodes",
        "Fewest edges on a directed path to the node from some node of a set: the inputs, or the node ids in the "
        "setting 'nodes'; NaN where no path leads.",
        source="Stier 2019",
        scope="node",
        default=False,
        cost=_searches,
        igraph=distance_from_nodes_igraph,
        networkx=distance_from_nodes_networkx,
    ),
    *on_both(
        "two_step_neighborhood_mean",
        TWO_STEP,
        source=MGE,
        default=False,
        cost=all_pairs,
        igraph=two_step_neighborhood_mean_igraph,
        networkx=two_step_neighborhood_mean_networkx,
    ),
]
