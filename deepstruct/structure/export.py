"""Explicit graphs for other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import CapacityError

if TYPE_CHECKING:
    import igraph
    import networkx
    import scipy.sparse

    from deepstruct.structure.graph import StructureGraph

BYTES_PER_EDGE = {"scipy": 12, "igraph": 42, "networkx": 230}  # measured, upper ends


def export_bytes(graph: StructureGraph, library: str) -> int:
    """Estimated memory of an export, in bytes, the edge list included."""
    return graph.explicit_bytes() + BYTES_PER_EDGE[library] * (graph.num_edges + 4 * graph.num_nodes)


def _check(graph: StructureGraph, library: str, max_memory: int | None) -> None:
    need = export_bytes(graph, library)
    if max_memory is not None and need > max_memory:
        raise CapacityError(
            f"{graph.name} at {graph.order} order has {graph.num_nodes:,} nodes and {graph.num_edges:,} edges; for "
            f"{library} it needs about {need / 2**30:.3g} GiB, and max_memory is {max_memory / 2**30:.3g} GiB. "
            "Raise max_memory=, or take a higher order."
        )


def to_scipy(graph: StructureGraph, max_memory: int | None, weights: bool) -> scipy.sparse.csr_array:
    """Sparse adjacency: counts of parallel edges, or sums of weights."""
    import scipy.sparse

    _check(graph, "scipy", max_memory)
    edges = graph.edge_list()
    data = np.where(np.isnan(edges.weight), 1.0, edges.weight) if weights else np.ones(edges.num_edges, dtype=np.int64)
    shape = (edges.num_nodes, edges.num_nodes)
    matrix = scipy.sparse.coo_array((data, (edges.source, edges.target)), shape=shape).tocsr()
    matrix.sum_duplicates()
    return matrix


def to_networkx(graph: StructureGraph, max_memory: int | None) -> networkx.DiGraph:
    """DiGraph or MultiDiGraph; weight edges carry "weight" and kind="weight", others kind="structural"."""
    import networkx as nx

    _check(graph, "networkx", max_memory)
    edges = graph.edge_list()
    pairs = list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    out: Any = nx.DiGraph() if len(set(pairs)) == len(pairs) else nx.MultiDiGraph()
    out.graph.update(name=graph.name, order=graph.order, conventions=dict(graph.conventions))
    for row in graph.node_table():
        out.add_node(row.pop("id"), **row)
    for (u, v), w in zip(pairs, edges.weight.tolist(), strict=True):
        if w != w:
            out.add_edge(u, v, kind="structural")
        else:
            out.add_edge(u, v, kind="weight", weight=w)
    return out


def to_igraph(graph: StructureGraph, max_memory: int | None) -> igraph.Graph:
    """Directed igraph Graph; edge attribute "weight" is NaN on structural edges."""
    import igraph

    _check(graph, "igraph", max_memory)
    edges = graph.edge_list()
    out = igraph.Graph(
        n=edges.num_nodes, edges=np.stack([edges.source, edges.target], axis=1).tolist(), directed=True
    )
    table = graph.node_table()
    for key in ("label", "space", "path", "kind", "role", "is_output"):
        out.vs[key] = [row[key] for row in table]
    out.vs["index"] = [list(row["index"]) for row in table]
    out.es["weight"] = edges.weight.tolist()
    out["name"], out["order"] = graph.name, graph.order
    return out
