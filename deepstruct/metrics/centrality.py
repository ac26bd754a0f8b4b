"""Betweenness: how many shortest directed paths pass through a node."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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


METRICS = [
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
