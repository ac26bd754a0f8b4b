"""What of the explicit graph lies on a way from an input to an output, and what is dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView
    from deepstruct.structure.graph import StructureGraph

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


def _share(amount: int, edges: int) -> float:
    if edges == 0:
        raise MetricError("the graph has no edges")
    return amount / edges


def removable_in_igraph(view: IgraphView) -> float:
    return _share(int(view.out_degree[view.hidden & (view.in_degree == 0)].sum()), view.num_edges)


def removable_out_igraph(view: IgraphView) -> float:
    return _share(int(view.in_degree[view.hidden & (view.out_degree == 0)].sum()), view.num_edges)


def removable_in_networkx(view: NetworkxView) -> float:
    graph = view.multigraph
    dead = _hidden(view, graph.in_degree())
    return _share(sum(degree for _, degree in graph.out_degree(dead)), graph.number_of_edges())


def removable_out_networkx(view: NetworkxView) -> float:
    graph = view.multigraph
    dead = _hidden(view, graph.out_degree())
    return _share(sum(degree for _, degree in graph.in_degree(dead)), graph.number_of_edges())


def nodes_asked_for(view: Any, default: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The setting "nodes", or else the inputs or outputs."""
    given = view.context.settings.get("nodes")
    if given is None:
        return default
    nodes = np.unique(np.array([int(node) for node in given], np.int64))
    unknown = nodes[(nodes < 0) | (nodes >= view.num_nodes)]
    if len(unknown):
        raise MetricError(
            f"the setting 'nodes' names nodes that the graph does not have as units: {unknown[:5].tolist()}"
        )
    return nodes


def descendants_igraph(view: IgraphView) -> int:
    return _beyond_igraph(view, view.inputs, "out")


def ancestors_igraph(view: IgraphView) -> int:
    return _beyond_igraph(view, view.outputs, "in")


def _beyond_igraph(view: IgraphView, default: npt.NDArray[np.int64], mode: str) -> int:
    nodes = nodes_asked_for(view, default)
    found: set[int] = set()
    for node in nodes.tolist():
        if node not in found:
            found.update(view.simple_directed.subcomponent(node, mode=mode))
    return len(found) - len(nodes)


def descendants_networkx(view: NetworkxView) -> int:
    import networkx as nx

    nodes = set(nodes_asked_for(view, view.inputs).tolist())
    return len(set().union(*(nx.descendants(view.simple_directed, node) for node in nodes)) - nodes)


def ancestors_networkx(view: NetworkxView) -> int:
    import networkx as nx

    nodes = set(nodes_asked_for(view, view.outputs).tolist())
    return len(set().union(*(nx.ancestors(view.simple_directed, node) for node in nodes)) - nodes)


def _need_ends(view: Any) -> None:
    if len(view.inputs) == 0 or len(view.outputs) == 0:
        raise MetricError("the graph has no inputs or no outputs")


def input_output_reach_igraph(view: IgraphView) -> float:
    _need_ends(view)
    outputs = set(view.outputs.tolist())
    joined = sum(
        len(outputs.intersection(view.simple_directed.subcomponent(node, mode="out"))) for node in view.inputs.tolist()
    )
    return joined / (len(view.inputs) * len(outputs))


def input_output_reach_networkx(view: NetworkxView) -> float:
    import networkx as nx

    _need_ends(view)
    joined = 0
    for node in view.input_nodes:
        joined += len(view.output_nodes & (nx.descendants(view.simple_directed, node) | {node}))
    return joined / (len(view.input_nodes) * len(view.output_nodes))


def _search_from_inputs(graph: StructureGraph) -> float:
    """Steps of a search from every input."""
    return float(len(graph.input_nodes())) * (float(graph.num_nodes) + float(graph.num_edges))


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
    *on_both(
        "removable_in",
        "Share of the edges that leave hidden nodes without an in-edge; parallel edges counted.",
        source=MGE,
        default=False,
        igraph=removable_in_igraph,
        networkx=removable_in_networkx,
    ),
    *on_both(
        "removable_out",
        "Share of the edges that enter hidden nodes without an out-edge; parallel edges counted.",
        source=MGE,
        default=False,
        igraph=removable_out_igraph,
        networkx=removable_out_networkx,
    ),
    *on_both(
        "descendants",
        "Number of nodes that some node of a set leads to along the edges, the set itself left out: the inputs, "
        "or the node ids in the setting 'nodes'.",
        default=False,
        igraph=descendants_igraph,
        networkx=descendants_networkx,
    ),
    *on_both(
        "ancestors",
        "Number of nodes that lead to some node of a set along the edges, the set itself left out: the outputs, "
        "or the node ids in the setting 'nodes'.",
        default=False,
        igraph=ancestors_igraph,
        networkx=ancestors_networkx,
    ),
    *on_both(
        "input_output_reach",
        "Share of the pairs (input, output) with a path from the one to the other; through operators from a "
        "sample of the smaller side where both are large (setting 'samples', 64), with standard error.",
        default=False,
        cost=_search_from_inputs,
        igraph=input_output_reach_igraph,
        networkx=input_output_reach_networkx,
    ),
]
