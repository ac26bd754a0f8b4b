"""Betti numbers of the explicit graph as a one-dimensional complex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepstruct.metrics.connectivity import (
    SIMPLE,
    weakly_connected_components_igraph,
    weakly_connected_components_networkx,
)
from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

RIECK = "Rieck et al. 2019 (neural persistence)"
BETA_0 = "Number of connected components when direction is dropped: weakly_connected_components."
BETA_1 = (
    "Cycle rank m - n + c of the undirected multigraph, with c components: independent cycles; each parallel edge "
    "beyond the first, and each self-loop, is one."
)
BETA_1_SIMPLE = f"Cycle rank m - n + c {SIMPLE}, with c components: independent cycles of length 3 or more."


def beta_1_igraph(view: IgraphView) -> int:
    return view.num_edges - view.num_nodes + weakly_connected_components_igraph(view)


def beta_1_networkx(view: NetworkxView) -> int:
    graph = view.multigraph
    return graph.number_of_edges() - graph.number_of_nodes() + weakly_connected_components_networkx(view)


def beta_1_simple_igraph(view: IgraphView) -> int:
    return len(view.undirected_pairs[0]) - view.num_nodes + weakly_connected_components_igraph(view)


def beta_1_simple_networkx(view: NetworkxView) -> int:
    graph = view.simple
    return graph.number_of_edges() - graph.number_of_nodes() + weakly_connected_components_networkx(view)


METRICS = [
    *on_both(
        "beta_0", BETA_0, igraph=weakly_connected_components_igraph, networkx=weakly_connected_components_networkx
    ),
    *on_both("beta_1", BETA_1, igraph=beta_1_igraph, networkx=beta_1_networkx),
    *on_both(
        "beta_1_simple", BETA_1_SIMPLE, default=False, igraph=beta_1_simple_igraph, networkx=beta_1_simple_networkx
    ),
]
