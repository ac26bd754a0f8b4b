"""Explicit graphs for other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, compress, product, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import CapacityError
from deepstruct.structure.csr import ExplicitCsr, build_csr, csr_bytes

if TYPE_CHECKING:
    import igraph
    import networkx
    import scipy.sparse

    from deepstruct.structure.graph import StructureGraph

BYTES_PER_EDGE = {"scipy": 16, "igraph": 42, "networkx": 230}  # measured, upper ends
BYTES_PER_NODE = {"scipy": 8, "igraph": 700, "networkx": 1500}  # with the columns of the node table
_IGRAPH_WEIGHT = 72  # a number in Python's own form, in igraph's table and on the way there
_CHUNK = 1 << 14


def export_bytes(graph: StructureGraph, library: str, weights: bool = True) -> int:
    """Estimated memory of an export at its peak, in bytes, the explicit rows included."""
    extra = _IGRAPH_WEIGHT if weights and library == "igraph" else 0
    return (
        csr_bytes(graph, "float64" if weights else None)
        + (BYTES_PER_EDGE[library] + extra) * graph.num_edges
        + BYTES_PER_NODE[library] * graph.num_nodes
    )


def _check(graph: StructureGraph, library: str, max_memory: int | None, weights: bool = True) -> None:
    if max_memory is None:
        return
    need = export_bytes(graph, library, weights)
    if need > max_memory:
        raise CapacityError(
            f"{graph.name} at {graph.order} order has {graph.num_nodes:,} nodes and {graph.num_edges:,} edges; for "
            f"{library} it needs about {need / 2**30:.3g} GiB, and max_memory is {max_memory / 2**30:.3g} GiB. "
            "Raise max_memory=, or take a higher order."
        )


def to_scipy(graph: StructureGraph, max_memory: int | None, weights: bool) -> scipy.sparse.csr_array:
    """Sparse adjacency: counts of parallel edges, or sums of weights."""
    import scipy.sparse

    _check(graph, "scipy", max_memory, weights)
    csr = build_csr(graph, "float64" if weights else None)
    data = np.ones(csr.num_edges, dtype=np.int64) if csr.weights is None else csr.weights
    if csr.weights is not None:
        np.nan_to_num(data, copy=False, nan=1.0, posinf=np.inf, neginf=-np.inf)
    indptr = csr.indptr.astype(np.int32) if csr.num_edges < 2**31 else csr.indptr
    shape = (csr.num_nodes, csr.num_nodes)
    matrix = scipy.sparse.csr_array((data, csr.indices, indptr), shape=shape)
    matrix.has_sorted_indices = True
    matrix.sum_duplicates()
    return matrix


def to_networkx(graph: StructureGraph, max_memory: int | None) -> networkx.DiGraph:
    """DiGraph or MultiDiGraph; weight edges carry "weight" and kind="weight", others kind="structural"."""
    import networkx as nx

    _check(graph, "networkx", max_memory)
    csr = build_csr(graph, "float64")
    assert csr.weights is not None
    out: Any = nx.MultiDiGraph() if _parallel(csr) else nx.DiGraph()
    out.graph.update(name=graph.name, order=graph.order, conventions=dict(graph.conventions))
    for row in node_rows(graph):
        out.add_node(row.pop("id"), **row)
    out.add_edges_from(
        (u, v, {"kind": "structural"} if w != w else {"kind": "weight", "weight": w})
        for (u, v), w in zip(edge_pairs(csr), _numbers(csr.weights), strict=True)
    )
    return out


def _parallel(csr: ExplicitCsr) -> bool:
    """Whether two edges join the same nodes in the same direction."""
    same = csr.indices[1:] == csr.indices[:-1]
    first = csr.indptr[:-1][csr.out_degree > 0]  # equal columns of two rows say nothing
    same[first[first > 0] - 1] = False
    return bool(same.any())


def to_igraph(graph: StructureGraph, max_memory: int | None, weights: bool, attributes: bool) -> igraph.Graph:
    """Directed igraph Graph; edge attribute "weight" is NaN on structural edges."""
    _check(graph, "igraph", max_memory, weights)
    csr = build_csr(graph, "float64" if weights else None)
    out = igraph_of(csr)
    if attributes:
        for key, column in node_columns(graph).items():
            if key != "id":
                out.vs[key] = [list(index) for index in column] if key == "index" else column
    if csr.weights is not None:
        out.es["weight"] = list(_numbers(csr.weights))
    out["name"], out["order"] = graph.name, graph.order
    return out


def igraph_of(csr: ExplicitCsr) -> igraph.Graph:
    """Directed igraph Graph of nothing but the edges, in their order.

    igraph reads pairs of Python's own integers: 5 million a second, where arrays and views of memory come to 1
    million. Sorted edges are the quickest, and one integer serves all edges of a row.
    """
    import igraph

    return igraph.Graph(n=csr.num_nodes, edges=edge_pairs(csr), directed=True)


def edge_pairs(csr: ExplicitCsr) -> Iterator[tuple[int, int]]:
    """(source, target) of every edge, in order, as plain integers."""
    sources = chain.from_iterable(map(repeat, range(csr.num_nodes), csr.out_degree.tolist()))
    return zip(sources, _numbers(csr.indices), strict=True)


def column_pairs(source: np.ndarray, target: np.ndarray) -> Iterator[tuple[int, int]]:
    """The same of two columns."""
    return zip(_numbers(source), _numbers(target), strict=True)


def _numbers(array: np.ndarray) -> Iterator[Any]:
    """The elements of an array as plain numbers, a few at a time."""
    return chain.from_iterable(array[begin : begin + _CHUNK].tolist() for begin in range(0, len(array), _CHUNK))


def node_columns(graph: StructureGraph) -> dict[str, list[Any]]:
    """The columns of `StructureGraph.node_table`, each a list with one entry per node."""
    names = ("label", "space", "path", "kind", "index", "role", "is_output")
    columns: dict[str, list[Any]] = {"id": list(range(graph.num_nodes)), **{name: [] for name in names}}
    source, output = graph.is_source.numpy(), graph.is_output.numpy()
    for space in graph.spaces:
        here = graph.places(space)
        count = int(here.sum())
        if count == 0:
            continue
        kept = None if count == len(here) else here.tolist()
        indices = product(*map(range, space.shape))
        labels: Iterator[str]
        if space.node_names:
            labels = iter(space.node_names)
        else:
            cells = product(*(map(str, range(n)) for n in space.shape))
            labels = (f"{space.name}[{','.join(cell)}]" for cell in cells)
        columns["index"] += indices if kept is None else compress(indices, kept)
        columns["label"] += labels if kept is None else compress(labels, kept)
        for name, value in (("space", space.name), ("path", space.path), ("kind", space.kind)):
            columns[name] += [value] * count
        if space.scores is not None:
            columns["role"] += ["hidden"] * count
            columns["is_output"] += [False] * count
            continue
        role = np.where(source[space.slots], "input", np.where(output[space.slots], "output", "hidden"))
        columns["role"] += role[here].tolist()
        columns["is_output"] += output[space.slots][here].tolist()
    return columns


def node_rows(graph: StructureGraph) -> Iterator[dict[str, Any]]:
    """The rows of `StructureGraph.node_table`, one after the other."""
    columns = node_columns(graph)
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))
