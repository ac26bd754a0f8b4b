"""What of the explicit graph lies on a way from an input to an output, and what is dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

MGE = "Cunegatti et al., multipartite graph encoding"


def _effective(view: IgraphView) -> npt.NDArray[np.bool_]:
    return (view.from_inputs >= 0) & (view.to_outputs >= 0)


def effective_nodes_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(_effective(view)))


def effective_nodes_networkx(view: NetworkxView) -> int:
    return len(view.from_inputs.keys() & view.to_outputs.keys())


def effective_edges_igraph(view: IgraphView) -> int:
    alive = _effective(view)
    return int(np.count_nonzero(alive[view.edges.source] & alive[view.edges.target]))


def effective_edges_networkx(view: NetworkxView) -> int:
    ahead, behind = view.from_inputs, view.to_outputs
    return sum(u in ahead and v in behind for u, v in view.multigraph.edges())


def dead_in_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(view.hidden & (view.in_degree == 0)))


def dead_out_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(view.hidden & (view.out_degree == 0)))


def isolated_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(view.hidden & (view.in_degree == 0) & (view.out_degree == 0)))


def dead_in_networkx(view: NetworkxView) -> int:
    return len(_hidden(view, view.multigraph.in_degree()))


def dead_out_networkx(view: NetworkxView) -> int:
    return len(_hidden(view, view.multigraph.out_degree()))


def isolated_networkx(view: NetworkxView) -> int:
    return len(_hidden(view, view.multigraph.degree()))


def _hidden(view: NetworkxView, degrees: Any) -> list[int]:
    """Nodes of degree 0 that are neither input nor output."""
    ends = view.input_nodes | view.output_nodes
    return [node for node, degree in degrees if degree == 0 and node not in ends]


METRICS = [
    *on_both(
        "effective_nodes",
        "Nodes that an input reaches and that reach an output; one that is both input and output counts.",
        source="Pham et al. 2023",
        igraph=effective_nodes_igraph,
        networkx=effective_nodes_networkx,
    ),
    *on_both(
        "effective_edges",
        "Edges on a way from an input to an output, parallel ones counted.",
        source="Vysogorets & Kempe 2023",
        igraph=effective_edges_igraph,
        networkx=effective_edges_networkx,
    ),
    *on_both(
        "dead_in",
        "Hidden nodes (neither input nor output) without an in-edge, isolated ones included.",
        source=MGE,
        igraph=dead_in_igraph,
        networkx=dead_in_networkx,
    ),
    *on_both(
        "dead_out",
        "Hidden nodes (neither input nor output) without an out-edge, isolated ones included.",
        source=MGE,
        igraph=dead_out_igraph,
        networkx=dead_out_networkx,
    ),
    *on_both(
        "isolated",
        "Hidden nodes (neither input nor output) without any edge.",
        source=MGE,
        igraph=isolated_igraph,
        networkx=isolated_networkx,
    ),
]
