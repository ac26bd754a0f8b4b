"""Triangles, 4-cycles and clustering of the undirected graph without parallel edges and self-loops."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.engine import budget
from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

_CHUNK = 1 << 22  # two-step walks held at a time


def average_clustering_igraph(view: IgraphView) -> float:
    view.need_nodes()
    view.spend(view.wedges, "local clustering")
    return float(view.simple.transitivity_avglocal_undirected(mode="zero"))


def average_clustering_networkx(view: NetworkxView) -> float:
    import networkx as nx

    view.need_nodes()
    view.spend(view.wedges, "local clustering")
    return float(nx.average_clustering(view.simple))


def transitivity_igraph(view: IgraphView) -> float:
    view.spend(view.wedges, "transitivity")
    return float(view.simple.transitivity_undirected(mode="zero"))


def transitivity_networkx(view: NetworkxView) -> float:
    import networkx as nx

    view.spend(view.wedges, "transitivity")
    return float(nx.transitivity(view.simple))


def triangles_igraph(view: IgraphView) -> int:
    degree = view.undirected_degree
    triples = int((degree * (degree - 1) // 2).sum())
    # igraph counts triangles in whole numbers and divides at the end: rounding brings the count back
    return round(transitivity_igraph(view) * triples / 3)


def triangles_networkx(view: NetworkxView) -> int:
    import networkx as nx

    view.spend(view.wedges, "counting triangles")
    return sum(nx.triangles(view.simple).values()) // 3


def butterflies_igraph(view: IgraphView) -> int:
    from scipy.sparse import csr_array

    view.spend(view.wedges, "counting 4-cycles")
    low, high = view.undirected_pairs
    ends = np.concatenate([low, high]), np.concatenate([high, low])
    matrix = csr_array((np.ones(2 * len(low), np.int64), ends), shape=(view.num_nodes,) * 2)
    walks = matrix @ view.undirected_degree
    fourfold = 0
    for first, last in _chunks(walks):
        budget.check()
        common = matrix[first:last] @ matrix  # entry (u, w): how many neighbors u and w share
        shared = common.data
        fourfold += int((shared * (shared - 1) // 2).sum())
    degree = view.undirected_degree
    own = int((degree * (degree - 1) // 2).sum())  # the diagonal: each node with itself
    return (fourfold - own) // 4  # a 4-cycle has two pairs of opposite nodes, each counted both ways


def _chunks(walks: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Ranges of nodes whose two-step walks together stay near the chunk size."""
    number = (np.cumsum(walks) // _CHUNK).astype(np.int64)
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(walks)]
    return [(a, b) for a, b in pairwise(bounds) if b > a]


def butterflies_networkx(view: NetworkxView) -> int:
    view.spend(view.wedges, "counting 4-cycles")
    graph = view.simple
    twice = 0
    for node in graph:
        budget.check()
        common = Counter(end for middle in graph[node] for end in graph[middle] if end > node)
        twice += sum(count * (count - 1) // 2 for count in common.values())
    return twice // 2


METRICS = [
    *on_both(
        "average_clustering",
        "Mean over the nodes of the share of pairs of neighbors that are joined; 0 for nodes with fewer "
        "than two neighbors; undirected.",
        source="Watts & Strogatz 1998",
        igraph=average_clustering_igraph,
        networkx=average_clustering_networkx,
    ),
    *on_both(
        "transitivity",
        "3 x triangles / connected triples, undirected; 0 where there is no connected triple.",
        source="networkx.transitivity",
        igraph=transitivity_igraph,
        networkx=transitivity_networkx,
    ),
    *on_both(
        "triangles",
        "Number of triangles, undirected.",
        igraph=triangles_igraph,
        networkx=triangles_networkx,
    ),
    *on_both(
        "butterflies",
        "Number of 4-cycles as subgraphs (chords allowed), undirected.",
        igraph=butterflies_igraph,
        networkx=butterflies_networkx,
    ),
]
