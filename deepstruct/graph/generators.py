"""Random and regular graphs as acyclic structures: networkx's generators, oriented by the order of the vertices.

`seed` is an integer, a NumPy generator, or None for NumPy's global random numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from deepstruct.errors import InputError
from deepstruct.graph.layered import CachedLayeredGraph
from deepstruct.graph.structure import orient

Seed = int | np.random.Generator | None


def erdos_renyi(n: int, p: float, *, seed: Seed = None) -> CachedLayeredGraph:
    """Every pair of n vertices is an edge with probability p; linear in the number of edges."""
    _probability(p, "p")
    return orient(nx.fast_gnp_random_graph(_count(n), p, seed=seed))


def watts_strogatz(n: int, k: int, p: float, *, seed: Seed = None) -> CachedLayeredGraph:
    """A ring whose vertices know their k nearest neighbours, each edge rewired with probability p."""
    _probability(p, "p")
    return orient(nx.watts_strogatz_graph(_count(n), _degree(k, n), p, seed=seed))


def newman_watts(n: int, k: int, p: float, *, seed: Seed = None) -> CachedLayeredGraph:
    """As Watts-Strogatz, with shortcuts added instead of edges rewired."""
    _probability(p, "p")
    return orient(nx.newman_watts_strogatz_graph(_count(n), _degree(k, n), p, seed=seed))


def barabasi_albert(n: int, m: int, *, seed: Seed = None) -> CachedLayeredGraph:
    """Preferential attachment: each new vertex brings m edges to old ones, by their degree."""
    if not 1 <= m < n:
        raise InputError(f"m={m}: a new vertex brings 1 to n - 1 edges")
    return orient(nx.barabasi_albert_graph(n, m, seed=seed))


def stochastic_block(sizes: Sequence[int], p: Sequence[Sequence[float]], *, seed: Seed = None) -> CachedLayeredGraph:
    """Blocks of vertices; p[i][j] is the probability of an edge between blocks i and j (symmetric)."""
    try:
        return orient(nx.stochastic_block_model(list(sizes), [list(row) for row in p], seed=seed))
    except nx.NetworkXException as error:
        raise InputError(f"no stochastic block model of sizes {list(sizes)}: {error}") from error


def grid(*shape: int) -> CachedLayeredGraph:
    """A lattice; edges go up along every axis, so that the layer of a vertex is the sum of its coordinates."""
    if not shape or min(shape) < 1:
        raise InputError(f"shape={shape}: write at least one size, each of them at least 1")
    return orient(nx.grid_graph(dim=tuple(reversed(shape))))


def tree(branching: int, height: int, *, inward: bool = False) -> CachedLayeredGraph:
    """A balanced tree, from its root to its leaves or, if `inward`, the other way."""
    if branching < 1 or height < 0:
        raise InputError(f"branching={branching}, height={height}: at least 1 and 0")
    result = nx.balanced_tree(branching, height)
    return orient(result, order=list(reversed(list(result)))) if inward else orient(result)


def random_wired(
    n: int, kind: str = "watts_strogatz", *, seed: Seed = None, **parameters: Any
) -> CachedLayeredGraph:
    """A stage of randomly wired cells (Xie et al., 2019): a random graph with one input and one output vertex.

    Vertex 0 feeds every vertex without predecessors, vertex n + 1 reads every one without successors.

    Args:
        kind: "watts_strogatz" (k=4, p=0.75), "barabasi_albert" (m=5) or "erdos_renyi" (p=0.2).
        parameters: instead of those defaults, which are the article's.
    """
    makers: dict[str, tuple[Any, dict[str, Any]]] = {
        "watts_strogatz": (watts_strogatz, {"k": 4, "p": 0.75}),
        "barabasi_albert": (barabasi_albert, {"m": 5}),
        "erdos_renyi": (erdos_renyi, {"p": 0.2}),
    }
    if kind not in makers:
        raise InputError(f"kind={kind!r}: choose one of {', '.join(makers)}")
    make, defaults = makers[kind]
    inner = make(n, seed=seed, **{**defaults, **parameters})
    result = CachedLayeredGraph()
    result.add_nodes_from(range(n + 2))
    result.add_edges_from((u + 1, v + 1) for u, v in inner.edges)
    result.add_edges_from((0, v + 1) for v in range(n) if inner.in_degree(v) == 0)
    result.add_edges_from((v + 1, n + 1) for v in range(n) if inner.out_degree(v) == 0)
    return result


def uniform_proportions(graph: nx.Graph, *, seed: Seed = None) -> dict[Hashable, float]:
    """A share for every vertex, nearly equal, all of them adding up to one (Dirichlet with concentration 100)."""
    if not len(graph):
        raise InputError("the graph is empty: there is nothing to share among")
    concentration = np.full(len(graph), 100.0)
    draw = np.random.dirichlet if seed is None else np.random.default_rng(seed).dirichlet
    return dict(zip(graph.nodes, draw(concentration).tolist(), strict=True))


def _probability(p: float, name: str) -> None:
    if not 0 <= p <= 1:
        raise InputError(f"{name}={p}: a probability is between 0 and 1")


def _count(n: int) -> int:
    if n < 1:
        raise InputError(f"n={n}: a graph has at least one vertex")
    return n


def _degree(k: int, n: int) -> int:
    if not 0 <= k <= n:
        raise InputError(f"k={k}: a ring of {n} vertices has 0 to {n} neighbours")
    return k
