"""Betweenness, how many shortest directed paths pass through a node; and PageRank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.table import all_pairs, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

DEFINITION = (
    "sum over ordered pairs (s, t) of other nodes of the share of shortest directed paths from s to t that "
    "pass through the node, unnormalized; parallel edges and self-loops do not count"
)


def betweenness_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    compute = view.simple_directed.betweenness
    return view.once("betweenness", lambda: np.asarray(compute(directed=True), np.float64))


def betweenness_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    def compute() -> npt.NDArray[np.float64]:
        table = nx.betweenness_centrality(view.simple_directed, normalized=False)
        return np.array([table[node] for node in range(view.num_nodes)], np.float64)

    return view.once("betweenness", compute)


def betweenness_mean_igraph(view: IgraphView) -> float:
    view.need_nodes()
    return float(betweenness_igraph(view).mean())


def betweenness_mean_networkx(view: NetworkxView) -> float:
    view.need_nodes()
    return math.fsum(betweenness_networkx(view)) / view.num_nodes


def betweenness_max_igraph(view: IgraphView) -> float:
    view.need_nodes()
    return float(betweenness_igraph(view).max())


def betweenness_max_networkx(view: NetworkxView) -> float:
    view.need_nodes()
    return max(betweenness_networkx(view).tolist())


PAGERANK = (
    "PageRank along the edges, damping 0.85 (setting 'pagerank_damping'), uniform teleportation, nodes without "
    "out-edges hand their rank to all nodes alike; sums to 1; parallel edges count as often as they occur"
)


def damping(settings: Mapping[str, Any]) -> float:
    """The setting. Raises MetricError outside [0, 1)."""
    value = float(settings.get("pagerank_damping", 0.85))
    if not 0 <= value < 1:
        raise MetricError(f"the setting 'pagerank_damping' is {value:g}: give a number from 0 to below 1")
    return value


def pagerank_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    view.need_nodes()
    return np.asarray(view.multigraph.pagerank(damping=damping(view.context.settings)), np.float64)


def pagerank_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    import networkx as nx

    view.need_nodes()
    table = nx.pagerank(view.multigraph, damping(view.context.settings), weight=None, tol=1e-15, max_iter=10_000)
    return np.array([table[node] for node in range(view.num_nodes)], np.float64)


METRICS = [
    *on_both(
        "pagerank",
        f"{PAGERANK}. Exact, by one pass, on an acyclic graph at the operator analyzer.",
        source="Brin & Page 1998; networkx.pagerank",
        scope="node",
        default=False,
        igraph=pagerank_igraph,
        networkx=pagerank_networkx,
    ),
    *on_both(
        "betweenness",
        f"Betweenness: {DEFINITION}.",
        source="Freeman; algorithm of Brandes",
        scope="node",
        default=False,
        cost=all_pairs,
        igraph=betweenness_igraph,
        networkx=betweenness_networkx,
    ),
    *on_both(
        "betweenness_mean",
        f"Mean over the nodes of the betweenness: {DEFINITION}.",
        source="Freeman; algorithm of Brandes",
        cost=all_pairs,
        igraph=betweenness_mean_igraph,
        networkx=betweenness_mean_networkx,
    ),
    *on_both(
        "betweenness_max",
        f"Largest betweenness: {DEFINITION}.",
        source="Freeman; algorithm of Brandes",
        cost=all_pairs,
        igraph=betweenness_max_igraph,
        networkx=betweenness_max_networkx,
    ),
]
