"""The layer of every vertex of an acyclic graph: the length of the longest path that ends in it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from deepstruct.errors import StructureError


def build_layer_index(
    graph: Any, layer_index: dict[Hashable, int] | None = None
) -> tuple[dict[Hashable, int], dict[int, list[Hashable]]]:
    """Layers of a directed acyclic networkx graph, in linear time and without recursion.

    A vertex without predecessors is in layer 0, any other one above its highest predecessor. Returns
    vertex -> layer, and layer -> vertices; vertices of a layer are in the order of the graph's nodes.

    Args:
        layer_index: layers that are known already; they are kept as they are, and the dict is completed.

    Raises:
        StructureError: for an undirected graph, and for a cycle, which the message names.
    """
    if not graph.is_directed():
        raise StructureError("layers need directed edges: orient the graph first (deepstruct.graph.orient)")
    known = {} if layer_index is None else layer_index
    nodes = list(graph)
    position = {vertex: i for i, vertex in enumerate(nodes)}
    edges = [(position[u], position[v]) for u, v in graph.edges()]
    fixed = [known.get(vertex, -1) for vertex in nodes]
    levels = longest_paths(len(nodes), [u for u, _ in edges], [v for _, v in edges], nodes, fixed)
    by_layer: dict[int, list[Hashable]] = {layer: [] for layer in sorted(set(levels))}
    for vertex, layer in zip(nodes, levels, strict=True):
        known[vertex] = layer
        by_layer[layer].append(vertex)
    return known, by_layer


def longest_paths(
    n: int,
    source: Sequence[int] | np.ndarray,
    target: Sequence[int] | np.ndarray,
    names: Sequence[Hashable] | None = None,
    fixed: Sequence[int] | None = None,
) -> list[int]:
    """Layer of each of n vertices, given edges source[k] -> target[k]; `fixed` has layers >= 0 to keep.

    Raises StructureError when the edges have a cycle; `names` are what the message calls its vertices.
    """
    tail, head = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    order = np.argsort(tail, kind="stable")
    successors = head[order].tolist()
    start = np.concatenate([[0], np.bincount(tail, minlength=n).cumsum()]).tolist() if n else [0]
    missing = np.bincount(head, minlength=n).tolist()
    layer = [0] * n if fixed is None else [max(f, 0) for f in fixed]
    free = [True] * n if fixed is None else [f < 0 for f in fixed]
    ready = [v for v in range(n) if not missing[v]]
    for u in ready:  # grows while it is read: a queue
        above = layer[u] + 1
        for v in successors[start[u] : start[u + 1]]:
            if free[v] and above > layer[v]:
                layer[v] = above
            missing[v] -= 1
            if not missing[v]:
                ready.append(v)
    if len(ready) < n:
        cycle = _cycle(missing, tail.tolist(), head.tolist())
        shown = [repr(names[v]) if names is not None else str(v) for v in cycle]
        if len(shown) > 8:
            shown = [*shown[:4], "...", *shown[-3:]]
        raise StructureError(
            f"the graph has a cycle: {' -> '.join(shown)}; layers need a directed acyclic graph "
            "(deepstruct.graph.orient directs the edges of an undirected one)"
        )
    return layer


def _cycle(missing: list[int], source: list[int], target: list[int]) -> list[int]:
    """One cycle among the vertices that were never ready: each has a predecessor among them."""
    before = {v: u for u, v in zip(source, target, strict=True) if missing[u] and missing[v]}
    vertex = next(v for v in before)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while vertex not in seen:
        seen[vertex] = len(walk)
        walk.append(vertex)
        vertex = before[vertex]
    return [vertex, *reversed(walk[seen[vertex] :])]
