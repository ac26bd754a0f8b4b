"""Components, cores and cuts of the explicit graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

MULTIGRAPH_CORE = (
    "at least k edges to nodes of the set, direction dropped, parallel edges counted and self-loops twice; "
    "equals the core number where there are neither"
)
SIMPLE = "in the undirected graph without parallel edges and self-loops"
MEAN_SIZE = "Mean number of nodes of a weakly connected component."


def weakly_connected_components_igraph(view: IgraphView) -> int:
    return len(_component_sizes(view))


def largest_component_igraph(view: IgraphView) -> int:
    return max(_component_sizes(view), default=0)


def _component_sizes(view: IgraphView) -> list[int]:
    return view.once("component sizes", lambda: [int(s) for s in view.simple.connected_components().sizes()])


def weakly_connected_components_networkx(view: NetworkxView) -> int:
    import networkx as nx

    return int(nx.number_weakly_connected_components(view.multigraph)) if view.num_nodes else 0


def largest_component_networkx(view: NetworkxView) -> int:
    import networkx as nx

    return max(map(len, nx.weakly_connected_components(view.multigraph)), default=0)


def _mean_size(view: Any, components: int) -> float:
    view.need_nodes()
    return float(view.num_nodes / components)


def bridges_igraph(view: IgraphView) -> int:
    return len(view.simple.bridges())


def bridges_networkx(view: NetworkxView) -> int:
    import networkx as nx

    return sum(1 for _ in nx.bridges(view.simple))


def articulation_points_igraph(view: IgraphView) -> int:
    return len(view.simple.articulation_points())


def articulation_points_networkx(view: NetworkxView) -> int:
    import networkx as nx

    return len(set(nx.articulation_points(view.simple)))


def core_number_igraph(view: IgraphView) -> npt.NDArray[np.int64]:
    return view.once("core", lambda: np.asarray(view.simple.coreness(), np.int64))


def core_number_networkx(view: NetworkxView) -> npt.NDArray[np.int64]:
    import networkx as nx

    core = nx.core_number(view.simple)
    return np.array([core[node] for node in range(view.num_nodes)], np.int64)


def core_number_mean_igraph(view: IgraphView) -> float:
    view.need_nodes()
    return float(core_number_igraph(view).mean())


def core_number_mean_networkx(view: NetworkxView) -> float:
    view.need_nodes()
    return sum(core_number_networkx(view).tolist()) / view.num_nodes


def core_number_max_igraph(view: IgraphView) -> int:
    view.need_nodes()
    return int(core_number_igraph(view).max())


def core_number_max_networkx(view: NetworkxView) -> int:
    view.need_nodes()
    return max(core_number_networkx(view).tolist())


def multigraph_core_number_igraph(view: IgraphView) -> npt.NDArray[np.int64]:
    """By rounds: all nodes with no more edges than the level are peeled at once."""
    left = view.in_degree + view.out_degree
    core, alive, level = np.zeros(view.num_nodes, np.int64), np.ones(view.num_nodes, bool), 0
    while alive.any():
        level = max(level, int(left[alive].min()))
        gone = np.flatnonzero(alive & (left <= level))
        core[gone], alive[gone] = level, False
        for rows in (view.out_rows, view.in_rows):
            left = left - np.bincount(rows.neighbors(gone), minlength=view.num_nodes)
    return core


def multigraph_core_number_networkx(view: NetworkxView) -> npt.NDArray[np.int64]:
    """One node at a time: the one with the fewest edges goes first."""
    graph = view.multigraph.copy()
    core, level = np.zeros(view.num_nodes, np.int64), 0
    while graph:
        node, degree = min(graph.degree(), key=lambda pair: pair[1])
        level = max(level, degree)
        core[node] = level
        graph.remove_node(node)
    return core


def _multigraph_mean(view: Any, core: npt.NDArray[np.int64]) -> float:
    view.need_nodes()
    return float(core.mean())


def _multigraph_max(view: Any, core: npt.NDArray[np.int64]) -> int:
    view.need_nodes()
    return int(core.max())


def _need_flow(view: Any, bytes_per_edge: int) -> None:
    flow = min(len(view.inputs), len(view.outputs))
    view.spend(float(flow) * (view.num_nodes + view.num_edges), "the minimum vertex cut")
    view.reserve(bytes_per_edge * (view.num_nodes + view.num_edges), "the minimum vertex cut")


def min_vertex_cut_igraph(view: IgraphView) -> int:
    _need_flow(view, 250)
    first, last = view.num_nodes, view.num_nodes + 1
    graph = view.simple_directed.copy()
    graph.add_vertices(2)
    graph.add_edges([(first, node) for node in view.inputs.tolist()])
    graph.add_edges([(node, last) for node in view.outputs.tolist()])
    return int(graph.vertex_connectivity(first, last, neighbors="error"))


def min_vertex_cut_networkx(view: NetworkxView) -> int:
    from networkx.algorithms.connectivity import local_node_connectivity

    _need_flow(view, 1200)
    graph = view.simple_directed.copy()
    graph.add_nodes_from(["from", "to"])
    graph.add_edges_from(("from", node) for node in view.input_nodes)
    graph.add_edges_from((node, "to") for node in view.output_nodes)
    return int(local_node_connectivity(graph, "from", "to"))


METRICS = [
    *on_both(
        "weakly_connected_components",
        "Number of components when direction is dropped; a node without edges is one.",
        igraph=weakly_connected_components_igraph,
        networkx=weakly_connected_components_networkx,
    ),
    *on_both(
        "largest_component",
        "Number of nodes in the largest weakly connected component.",
        igraph=largest_component_igraph,
        networkx=largest_component_networkx,
    ),
    *on_both(
        "component_size_mean",
        MEAN_SIZE,
        source="Cunegatti et al., multipartite graph encoding",
        default=False,
        requires=("nonempty",),
        igraph=lambda view: _mean_size(view, weakly_connected_components_igraph(view)),
        networkx=lambda view: _mean_size(view, weakly_connected_components_networkx(view)),
    ),
    *on_both(
        "bridges",
        f"Number of edges whose removal disconnects their ends, {SIMPLE}: a pair joined by parallel edges "
        "counts as joined by one.",
        igraph=bridges_igraph,
        networkx=bridges_networkx,
    ),
    *on_both(
        "articulation_points",
        f"Number of nodes whose removal disconnects others, {SIMPLE}.",
        igraph=articulation_points_igraph,
        networkx=articulation_points_networkx,
    ),
    *on_both(
        "core_number",
        f"Largest k such that the node belongs to the k-core, {SIMPLE}.",
        source="Batagelj & Zaversnik, k-core",
        scope="node",
        default=False,
        igraph=core_number_igraph,
        networkx=core_number_networkx,
    ),
    *on_both(
        "core_number_mean",
        f"Mean core number of the nodes, {SIMPLE}.",
        source="Batagelj & Zaversnik, k-core",
        igraph=core_number_mean_igraph,
        networkx=core_number_mean_networkx,
    ),
    *on_both(
        "core_number_max",
        f"Largest core number, {SIMPLE}.",
        source="Batagelj & Zaversnik, k-core",
        igraph=core_number_max_igraph,
        networkx=core_number_max_networkx,
    ),
    *on_both(
        "min_vertex_cut",
        "Fewest nodes, inputs and outputs among them, whose removal leaves no path from an input to an "
        "output; equals the largest number of input-output paths that share no node.",
        source="Menger",
        default=False,
        igraph=min_vertex_cut_igraph,
        networkx=min_vertex_cut_networkx,
    ),
    *on_both(
        "multigraph_core_number",
        f"Largest k such that the node belongs to a set of nodes that each have {MULTIGRAPH_CORE}.",
        source="Batagelj & Zaversnik, k-core",
        scope="node",
        default=False,
        igraph=multigraph_core_number_igraph,
        networkx=multigraph_core_number_networkx,
    ),
    *on_both(
        "multigraph_core_number_mean",
        f"Mean multigraph_core_number of the nodes: sets of nodes that each have {MULTIGRAPH_CORE}.",
        source="Batagelj & Zaversnik, k-core",
        default=False,
        igraph=lambda view: _multigraph_mean(view, multigraph_core_number_igraph(view)),
        networkx=lambda view: _multigraph_mean(view, multigraph_core_number_networkx(view)),
    ),
    *on_both(
        "multigraph_core_number_max",
        f"Largest multigraph_core_number of a node: sets of nodes that each have {MULTIGRAPH_CORE}.",
        source="Batagelj & Zaversnik, k-core",
        default=False,
        igraph=lambda view: _multigraph_max(view, multigraph_core_number_igraph(view)),
        networkx=lambda view: _multigraph_max(view, multigraph_core_number_networkx(view)),
    ),
]
