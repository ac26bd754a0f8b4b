"""Assortativity: the correlation of degrees across the edges of the explicit graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import MetricError
from deepstruct.metrics.table import on_both

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


def directed_assortativity_igraph(view: IgraphView) -> float:
    tail, head = view.out_degree[view.edges.source], view.in_degree[view.edges.target]
    _need_varied(tail, head)
    return float(np.corrcoef(tail.astype(np.float64), head.astype(np.float64))[0, 1])


def directed_assortativity_networkx(view: NetworkxView) -> float:
    import networkx as nx

    graph = view.multigraph
    _need_varied(*_ends(graph, dict(graph.out_degree()), dict(graph.in_degree())))
    return float(nx.degree_pearson_correlation_coefficient(graph, x="out", y="in"))


def _ends(graph: Any, first: dict[int, int], second: dict[int, int]) -> tuple[Any, Any]:
    edges = list(graph.edges())
    return np.array([first[u] for u, _ in edges]), np.array([second[v] for _, v in edges])


def _need_spread(first: Any, second: Any) -> None:
    """An undirected edge counts both ways, so both columns hold all the end degrees."""
    together = np.concatenate([first, second])
    _need_varied(together, together)


def _need_varied(first: Any, second: Any) -> None:
    for degrees in (first, second):
        if len(degrees) == 0:
            raise MetricError("the graph has no edges")
        if degrees.min() == degrees.max():
            raise MetricError("all edges end in nodes of one degree: the correlation is not defined")


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
        igraph=directed_assortativity_igraph,
        networkx=directed_assortativity_networkx,
    ),
]
