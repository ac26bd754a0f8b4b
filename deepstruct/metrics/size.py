"""Size and density of the explicit graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView


def nodes_igraph(view: IgraphView) -> int:
    return view.num_nodes


def nodes_networkx(view: NetworkxView) -> int:
    return int(view.multigraph.number_of_nodes())


def edges_igraph(view: IgraphView) -> int:
    return view.num_edges


def edges_networkx(view: NetworkxView) -> int:
    return int(view.multigraph.number_of_edges())


def weight_edges_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(view.weighted))


def weight_edges_networkx(view: NetworkxView) -> int:
    return sum("weight" in data for _, _, data in view.multigraph.edges(data=True))


def structural_edges_igraph(view: IgraphView) -> int:
    return view.num_edges - weight_edges_igraph(view)


def structural_edges_networkx(view: NetworkxView) -> int:
    return sum("weight" not in data for _, _, data in view.multigraph.edges(data=True))


def self_loops_igraph(view: IgraphView) -> int:
    return int(np.count_nonzero(view.edges.source == view.edges.target))


def self_loops_networkx(view: NetworkxView) -> int:
    import networkx as nx

    return int(nx.number_of_selfloops(view.multigraph))


def parallel_edges_igraph(view: IgraphView) -> int:
    loops = np.unique(view.edges.source[view.edges.source == view.edges.target])
    return view.num_edges - len(view.directed_pairs[0]) - len(loops)


def parallel_edges_networkx(view: NetworkxView) -> int:
    graph = view.multigraph
    return sum(len(keys) - 1 for _, row in graph.adjacency() for keys in row.values())


def sources_igraph(view: IgraphView) -> int:
    return len(view.inputs)


def sources_networkx(view: NetworkxView) -> int:
    return len(view.input_nodes)


def outputs_igraph(view: IgraphView) -> int:
    return len(view.outputs)


def outputs_networkx(view: NetworkxView) -> int:
    return len(view.output_nodes)


def density_igraph(view: IgraphView) -> float:
    nodes = view.num_nodes
    return view.num_edges / (nodes * (nodes - 1)) if nodes > 1 else 0.0


def density_networkx(view: NetworkxView) -> float:
    import networkx as nx

    return float(nx.density(view.multigraph))


METRICS = [
    *on_both("nodes", "Number of nodes.", igraph=nodes_igraph, networkx=nodes_networkx),
    *on_both(
        "edges", "Number of edges, parallel ones counted.", igraph=edges_igraph, networkx=edges_networkx
    ),
    *on_both(
        "weight_edges",
        "Number of edges through a non-zero weight.",
        igraph=weight_edges_igraph,
        networkx=weight_edges_networkx,
    ),
    *on_both(
        "structural_edges",
        "Number of edges that carry no weight (pooling, identity, attention mixing).",
        igraph=structural_edges_igraph,
        networkx=structural_edges_networkx,
    ),
    *on_both(
        "parallel_edges",
        "Number of edges beyond the first between the same ordered pair of nodes.",
        igraph=parallel_edges_igraph,
        networkx=parallel_edges_networkx,
    ),
    *on_both(
        "self_loops",
        "Number of edges from a node to itself.",
        igraph=self_loops_igraph,
        networkx=self_loops_networkx,
    ),
    *on_both("sources", "Number of input nodes.", igraph=sources_igraph, networkx=sources_networkx),
    *on_both("outputs", "Number of output nodes.", igraph=outputs_igraph, networkx=outputs_networkx),
    *on_both(
        "density",
        "m / (n (n - 1)) with parallel edges counted; 0 with fewer than two nodes.",
        source="networkx.density",
        igraph=density_igraph,
        networkx=density_networkx,
    ),
]
