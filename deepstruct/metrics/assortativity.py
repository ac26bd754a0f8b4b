"""Assortativity: the correlation of degrees across the edges of the explicit graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import MetricError
from deepstruct.metrics.table import Compute, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView


def assortativity_igraph(view: IgraphView) -> float:
    view.need_edges()
    low, high = view.undirected_pairs
    degree = view.undirected_degree
    _need_spread(degree[low], degree[high])
    return float(view.simple.assortativity_degree(directed=False))


def assortativity_networkx(view: NetworkxView) -> float:
    import networkx as nx

    view.need_edges()
    degree = dict(view.simple.degree())
    _need_spread(*_ends(view.simple, degree, degree))
    return float(nx.degree_pearson_correlation_coefficient(view.simple))


def multigraph_assortativity_igraph(view: IgraphView) -> float:
    degree = view.in_degree + view.out_degree
    ends = [degree[np.concatenate(pair)] for pair in _both_ways(view.edges.source, view.edges.target)]
    need_varied(*ends)
    return float(np.corrcoef(*(e.astype(np.float64) for e in ends))[0, 1])


def multigraph_assortativity_networkx(view: NetworkxView) -> float:
    import networkx as nx

    both = nx.MultiDiGraph()
    both.add_nodes_from(range(view.num_nodes))
    for u, v in view.multigraph.edges():
        both.add_edges_from([(u, v), (v, u)])
    degree = dict(view.multigraph.degree())
    need_varied(*_ends(both, degree, degree))
    # in the doubled graph a node has as many out-edges as it has edges
    return float(nx.degree_pearson_correlation_coefficient(both, x="out", y="in"))


def _both_ways(source: Any, target: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return (source, target), (target, source)


def _directed_igraph(first: str, second: str) -> Compute:
    def compute(view: IgraphView) -> float:
        degree = {"in": view.in_degree, "out": view.out_degree}
        tail, head = degree[first][view.edges.source], degree[second][view.edges.target]
        need_varied(tail, head)
        return float(np.corrcoef(tail.astype(np.float64), head.astype(np.float64))[0, 1])

    return compute


def _directed_networkx(first: str, second: str) -> Compute:
    def compute(view: NetworkxView) -> float:
        import networkx as nx

        graph = view.multigraph
        degree = {"in": dict(graph.in_degree()), "out": dict(graph.out_degree())}
        need_varied(*_ends(graph, degree[first], degree[second]))
        return float(nx.degree_pearson_correlation_coefficient(graph, x=first, y=second))

    return compute


def _ends(graph: Any, first: dict[int, int], second: dict[int, int]) -> tuple[Any, Any]:
    edges = list(graph.edges())
    return np.array([first[u] for u, _ in edges]), np.array([second[v] for _, v in edges])


def _need_spread(first: Any, second: Any) -> None:
    """An undirected edge counts both ways, so both columns hold all the end degrees."""
    together = np.concatenate([first, second])
    need_varied(together, together)


def need_varied(first: Any, second: Any) -> None:
    """Raise MetricError where a correlation of these degrees is not defined."""
    for degrees in (first, second):
        if len(degrees) == 0:
            raise MetricError("the graph has no edges")
        if degrees.min() == degrees.max():
            raise MetricError("all edges end in nodes of one degree: the correlation is not defined")


OTHER_PAIRS = (("in", "in"), ("in", "out"), ("out", "out"))  # beside out and in

METRICS = [
    *on_both(
        "assortativity",
        "Pearson correlation of the degrees at the two ends of an edge, in the undirected graph without "
        "parallel edges and self-loops; not defined when all those degrees are equal.",
        source="Newman, degree assortativity",
        igraph=assortativity_igraph,
        networkx=assortativity_networkx,
    ),
    *on_both(
        "directed_assortativity",
        "Pearson correlation, over all edges, of the out-degree of the source and the in-degree of the "
        "target, parallel edges counted; not defined when either degree is the same for all edges.",
        source="Newman, degree assortativity",
        igraph=_directed_igraph("out", "in"),
        networkx=_directed_networkx("out", "in"),
    ),
    *on_both(
        "multigraph_assortativity",
        "Pearson correlation of the degrees at the two ends of an edge, direction dropped, parallel edges "
        "counted; not defined when all those degrees are equal. Equals assortativity where no two edges join "
        "the same two nodes.",
        source="Newman, degree assortativity",
        default=False,
        igraph=multigraph_assortativity_igraph,
        networkx=multigraph_assortativity_networkx,
    ),
    *(
        metric
        for first, second in OTHER_PAIRS
        for metric in on_both(
            f"directed_assortativity_{first}_{second}",
            f"Pearson correlation, over all edges, of the {first}-degree of the source and the {second}-degree "
            "of the target, parallel edges counted; not defined when either degree is the same for all edges.",
            source="Newman, degree assortativity",
            default=False,
            igraph=_directed_igraph(first, second),
            networkx=_directed_networkx(first, second),
        )
    ),
]
