"""Relational graphs: networks as rounds of message exchange between groups of units (You et al., 2020)."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np

from deepstruct.errors import InputError

Seed = int | np.random.Generator | None


def relational_graph(n: int, degree: float, p: float, *, seed: Seed = None) -> nx.Graph:
    """The article's WS-flex graph: undirected, n vertices, mean degree `degree` (even or not), rewired with p.

    round(n * degree / 2) edges are spread evenly over a ring, nearest neighbours first, and each is moved
    with probability p to a random new neighbour.
    """
    if n < 3 or not 2 <= degree <= n - 1 or not 0 <= p <= 1:
        raise InputError(f"n={n}, degree={degree}, p={p}: at least 3 vertices, degree 2 to n - 1, p from 0 to 1")
    rng = np.random.default_rng(seed)
    edges = round(n * degree / 2)
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    full, rest = divmod(edges, n)
    spread = set(rng.permutation(n)[:rest].tolist())
    ring: dict[tuple[int, int], None] = {}
    for u in range(n):
        for hop in range(1, full + (u in spread) + 1):
            ring[(u, (u + hop) % n)] = None
    graph.add_edges_from(ring)
    free = list(nx.non_edges(graph)) if graph.number_of_edges() < edges else []
    for k in rng.permutation(len(free))[: edges - graph.number_of_edges()].tolist():
        graph.add_edge(*free[k])
    for u, v in list(ring):
        if rng.random() >= p or graph.degree(u) >= n - 1:
            continue
        choices = [w for w in range(n) if w != u and not graph.has_edge(u, w)]
        graph.remove_edge(u, v)
        graph.add_edge(u, choices[int(rng.integers(len(choices)))])
    return graph


def message_exchange_mask(graph: Any, out_features: int, in_features: int) -> np.ndarray:
    """The mask (out, in) of one round: units are dealt to the graph's vertices, neighbours are connected.

    Every vertex also hears itself. Units go to vertices in contiguous groups, the first groups one larger
    where they do not come out even. On the complete graph this is a dense layer.
    """
    n = len(graph)
    if n == 0 or min(out_features, in_features) < n:
        raise InputError(f"layers of {in_features} and {out_features} units cannot be dealt to {n} vertices")
    adjacency = nx.to_numpy_array(graph, weight=None).astype(bool) | np.eye(n, dtype=bool)
    return adjacency[np.ix_(_groups(out_features, n), _groups(in_features, n))]


def _groups(units: int, n: int) -> np.ndarray:
    return np.repeat(np.arange(n), [units // n + (k < units % n) for k in range(n)])
