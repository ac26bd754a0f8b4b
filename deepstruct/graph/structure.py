"""Any graph as plain arrays: vertices, directed acyclic edges, and their layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import InputError, StructureError
from deepstruct.graph.layers import longest_paths

if TYPE_CHECKING:
    from deepstruct.graph.layered import CachedLayeredGraph

Order = str | Sequence[Hashable] | Callable[[Any], Any] | None


@dataclass(frozen=True)
class Structure:
    """A directed acyclic graph over vertices 0 to n - 1, which are sorted by layer.

    Attributes:
        names: what the vertices were called.
        source, target: int64 arrays; edge k goes from source[k] to target[k]. Sorted by target, then source.
        layer: int64 array; layers count from 0 without gaps.
    """

    names: tuple[Hashable, ...]
    source: np.ndarray
    target: np.ndarray
    layer: np.ndarray

    @property
    def layer_start(self) -> np.ndarray:
        """First vertex of each layer, and at the end the number of vertices."""
        return np.searchsorted(self.layer, np.arange(int(self.layer[-1]) + 2))


def read_structure(
    graph: Any, order: Order = None, *, layers: Sequence[int] | None = None, among: Sequence[bool] | None = None
) -> Structure:
    """Vertices, edges and layers of a networkx or igraph graph, an edge list, or a GraphML file.

    Directed edges are taken as they are, unless `order` is given; undirected ones are oriented by it, see
    `orient`. Parallel edges are one edge. Vertices are sorted by layer, within a layer as they come.

    Args:
        layers: of each vertex, instead of longest paths; edges must go up.
        among: one boolean per vertex, to take a part of the graph only.

    Raises:
        InputError: for what is no graph, an empty one, or self-loops.
        StructureError: for a cycle, or layers that edges do not climb.
    """
    names, edges, directed = _parts(graph)
    if among is not None:
        names, edges = _restricted(names, edges, among)
    if not names:
        raise InputError("the graph is empty: a model needs at least one vertex")
    source, target = edges[:, 0], edges[:, 1]
    if len(edges) and (source == target).any():
        loop = names[int(source[source == target][0])]
        raise InputError(f"vertex {loop!r} has an edge to itself: remove it (networkx.selfloop_edges finds them)")
    if order is not None or not directed:
        rank = _ranks(order, names, edges)
        flip = rank[source] > rank[target]
        source, target = np.where(flip, target, source), np.where(flip, source, target)
    if layers is None:
        level = np.asarray(longest_paths(len(names), source, target, names), dtype=np.int64)
    else:
        level = _given_layers(layers, names, source, target)
    place = np.argsort(level, kind="stable")
    position = np.empty_like(place)
    position[place] = np.arange(len(place))
    source, target = position[source], position[target]
    key = np.unique(target * len(names) + source)  # sorted by target and source, each edge once
    return Structure(
        tuple(map(names.__getitem__, place.tolist())), key % len(names), key // len(names), level[place]
    )


def orient(graph: Any, order: Order = "nodes") -> CachedLayeredGraph:
    """A directed acyclic copy of any graph, its vertices under their own names.

    Every edge goes from the vertex that comes earlier to the one that comes later.

    Args:
        order: "nodes": the order in which the graph lists its vertices. "degree": hubs first, ties by that
            order. "bfs": breadth first from the first vertex of each component. Or the vertices in a
            sequence, or a function of the vertex to sort by.
    """
    from deepstruct.graph.layered import CachedLayeredGraph

    if isinstance(graph, (str, Path)):
        graph = _from_file(graph)
    structure = read_structure(graph, order)
    names, data = structure.names, hasattr(graph, "adj")
    result = CachedLayeredGraph()
    result.add_nodes_from(((v, graph.nodes[v]) for v in names) if data else names)
    for u, v in zip(structure.source.tolist(), structure.target.tolist(), strict=True):
        a, b = names[u], names[v]
        found: dict[str, Any] = {}
        if data and not graph.is_multigraph():
            found = graph.adj[a][b] if b in graph.adj[a] else graph.adj[b][a]
        result.add_edge(a, b, **{str(k): x for k, x in found.items()})
    return result


Parts = tuple[list[Hashable], np.ndarray, bool]


def _from_file(path: str | Path) -> Any:
    from deepstruct.graph.layered import LayeredGraph

    return LayeredGraph.load(path)


def _parts(graph: Any) -> Parts:
    """Names, edges (m, 2) as positions among them, and whether they are directed."""
    if isinstance(graph, (str, Path)):
        return _parts(_from_file(graph))
    if hasattr(graph, "adj") and hasattr(graph, "is_directed") and hasattr(graph, "nodes"):
        names = list(graph.nodes)
        position = {v: i for i, v in enumerate(names)}
        rows = [graph.adj[v] for v in names] if "_graph" in graph.__dict__ else [graph._adj[v] for v in names]
        tail = np.repeat(np.arange(len(names)), [len(row) for row in rows])
        head = np.fromiter(map(position.__getitem__, chain.from_iterable(rows)), np.int64)
        edges = np.stack([tail, head], axis=1)
        directed = graph.is_directed()
        return names, edges if directed else edges[tail <= head], directed  # undirected ones are there twice
    if hasattr(graph, "get_edgelist") and hasattr(graph, "vcount"):
        unique = "name" in graph.vs.attributes() and len(set(graph.vs["name"])) == graph.vcount()
        names = list(graph.vs["name"]) if unique else list(range(graph.vcount()))
        return names, _array(graph.get_edgelist()), bool(graph.is_directed())
    return _edge_list(graph)


def _edge_list(edges: Any) -> Parts:
    """A list of pairs, or an array (m, 2): directed. Vertices are in ascending order, or as they appear."""
    if hasattr(edges, "tolist"):
        edges = edges.tolist()
    try:
        pairs = [(u, v) for u, v in edges]
        seen = dict.fromkeys(vertex for pair in pairs for vertex in pair)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a structure is a networkx or igraph graph, a list of pairs or the path of a GraphML file, not "
            f"{type(edges).__name__} ({error})"
        ) from error
    numbers = all(isinstance(v, (int, np.integer)) for v in seen)
    names: list[Hashable] = sorted(seen) if numbers else list(seen)
    position = {v: i for i, v in enumerate(names)}
    return names, _array([(position[u], position[v]) for u, v in pairs]), True


def _array(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _restricted(names: list[Hashable], edges: np.ndarray, among: Sequence[bool]) -> tuple[list[Hashable], np.ndarray]:
    keep = np.asarray(among, dtype=bool)
    inside = keep[edges].all(1) if len(edges) else np.zeros(0, dtype=bool)
    return [names[i] for i in np.flatnonzero(keep).tolist()], (keep.cumsum() - 1)[edges[inside]]


def _given_layers(layers: Sequence[int], names: list[Hashable], source: np.ndarray, target: np.ndarray) -> np.ndarray:
    if len(layers) != len(names):
        raise StructureError(f"{len(layers)} layers are given for {len(names)} vertices")
    level = np.unique(np.asarray(layers, dtype=np.int64), return_inverse=True)[1].reshape(-1)
    down = level[source] >= level[target]
    if down.any():
        u, v = (names[int(side[down][0])] for side in (source, target))
        raise StructureError(f"edges go from a lower to a higher layer: {u!r} -> {v!r} does not, by the given layers")
    return level


def _ranks(order: Order, names: list[Hashable], edges: np.ndarray) -> np.ndarray:
    n = len(names)
    if order is None or order == "nodes":
        return np.arange(n)
    if order == "degree":
        degree = np.bincount(edges.reshape(-1), minlength=n)
        return _inverse(np.argsort(-degree, kind="stable"))
    if order == "bfs":
        return _inverse(np.array(_breadth_first(n, edges), dtype=np.int64))
    if callable(order):
        keys = [order(name) for name in names]
        return _inverse(np.array(sorted(range(n), key=keys.__getitem__), dtype=np.int64))
    if isinstance(order, str):
        raise InputError(f'order={order!r}: write "nodes", "degree" or "bfs", a sequence of vertices or a function')
    position = {v: i for i, v in enumerate(order)}
    missing = [v for v in names if v not in position]
    if missing:
        raise InputError(f"the order lacks {len(missing)} of the graph's vertices, such as {missing[0]!r}")
    return np.array([position[v] for v in names], dtype=np.int64)


def _inverse(permutation: np.ndarray) -> np.ndarray:
    rank = np.empty(len(permutation), dtype=np.int64)
    rank[permutation] = np.arange(len(permutation))
    return rank


def _breadth_first(n: int, edges: np.ndarray) -> Iterable[int]:
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for u, v in edges.tolist():
        neighbours[u].append(v)
        neighbours[v].append(u)
    found: dict[int, None] = {}
    for root in range(n):
        if root in found:
            continue
        queue = [root]
        found[root] = None
        for u in queue:
            for v in sorted(neighbours[u]):
                if v not in found:
                    found[v] = None
                    queue.append(v)
    return list(found)
