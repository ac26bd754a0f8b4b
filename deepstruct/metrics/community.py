"""Modularity: of the partition into spaces (exact), and of communities found by Louvain (a heuristic)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from deepstruct.metrics.base import Measured
from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

SIMPLE = "in the undirected graph without parallel edges and self-loops"
HEURISTIC = "Louvain: a lower bound of the best modularity; another order of the nodes may give another value"


def modularity_of_layers_igraph(view: IgraphView) -> float:
    view.need_edges()
    return float(view.simple.modularity(view.edges.space.tolist()))


def modularity_of_layers_networkx(view: NetworkxView) -> float:
    import networkx as nx

    view.need_edges()
    members: dict[int, set[int]] = {}
    for node, space in enumerate(view.edges.space.tolist()):
        members.setdefault(space, set()).add(node)
    return float(nx.community.modularity(view.simple, members.values()))


def _louvain_igraph(view: IgraphView) -> Any:
    import igraph

    def compute() -> Any:
        # igraph has one generator for the whole process; Python's `random` module is its own default
        igraph.set_random_number_generator(random.Random(0))
        try:
            return view.simple.community_multilevel()
        finally:
            igraph.set_random_number_generator(random)

    view.need_edges()
    return view.once("louvain", compute)


def _louvain_networkx(view: NetworkxView) -> Any:
    import networkx as nx

    view.need_edges()
    return view.once("louvain", lambda: nx.community.louvain_communities(view.simple, seed=0))


def communities_igraph(view: IgraphView) -> Measured:
    return Measured(len(_louvain_igraph(view)), exact=False, note=HEURISTIC)


def communities_networkx(view: NetworkxView) -> Measured:
    return Measured(len(_louvain_networkx(view)), exact=False, note=HEURISTIC)


def modularity_igraph(view: IgraphView) -> Measured:
    return Measured(float(_louvain_igraph(view).modularity), exact=False, note=HEURISTIC)


def modularity_networkx(view: NetworkxView) -> Measured:
    import networkx as nx

    value = nx.community.modularity(view.simple, _louvain_networkx(view))
    return Measured(float(value), exact=False, note=HEURISTIC)


METRICS = [
    *on_both(
        "modularity_of_layers",
        f"Newman's modularity of the partition of the nodes into spaces {SIMPLE}.",
        source="Newman, modularity",
        igraph=modularity_of_layers_igraph,
        networkx=modularity_of_layers_networkx,
    ),
    *on_both(
        "communities",
        f"Number of communities that Louvain finds with a fixed seed {SIMPLE}.",
        source="Louvain method",
        exact=False,
        igraph=communities_igraph,
        networkx=communities_networkx,
    ),
    *on_both(
        "modularity",
        f"Newman's modularity of the communities that Louvain finds with a fixed seed {SIMPLE}.",
        source="Newman, modularity; Louvain method",
        exact=False,
        igraph=modularity_igraph,
        networkx=modularity_networkx,
    ),
]
