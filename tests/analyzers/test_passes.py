"""Passes over edge lists against networkx, on graphs larger than the agreement tests use."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from deepstruct.analyzers.passes import DagSweep, adjacency, breadth_first, topological_levels


@pytest.fixture(params=range(6))
def dag(request: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """A random acyclic multigraph, edges in no order."""
    rng = np.random.default_rng(request.param)
    nodes = int(rng.integers(2, 300))
    u, v = rng.integers(0, nodes, (2, int(rng.integers(0, 4 * nodes))))
    keep = u != v
    rank = rng.permutation(nodes)
    u, v = np.minimum(rank[u], rank[v])[keep], np.maximum(rank[u], rank[v])[keep]
    name = rng.permutation(nodes)
    return nodes, name[u], name[v]


def graph_of(dag: tuple[int, np.ndarray, np.ndarray]) -> Any:
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(dag[0]))
    graph.add_edges_from(zip(dag[1].tolist(), dag[2].tolist(), strict=True))
    return graph


def test_levels_are_the_topological_generations(dag: Any) -> None:
    level = topological_levels(adjacency(*dag))
    assert level is not None
    for number, generation in enumerate(nx.topological_generations(graph_of(dag))):
        assert sorted(np.flatnonzero(level == number)) == sorted(generation)


def test_a_cycle_has_no_levels() -> None:
    assert topological_levels(adjacency(3, np.array([0, 1, 2]), np.array([1, 2, 1]))) is None
    assert topological_levels(adjacency(1, np.array([0]), np.array([0]))) is None
    none = np.empty(0, np.int64)
    assert topological_levels(adjacency(0, none, none)).tolist() == []


def test_breadth_first_distances(dag: Any) -> None:
    graph, seeds = graph_of(dag), np.arange(0, dag[0], 7)
    found = breadth_first(adjacency(*dag), seeds)
    expected = np.full(dag[0], -1)
    for step, layer in enumerate(nx.bfs_layers(graph, seeds.tolist())):
        expected[layer] = step
    assert found.tolist() == expected.tolist()


def test_breadth_first_takes_seeds_twice_and_none() -> None:
    rows = adjacency(3, np.array([0, 1]), np.array([1, 2]))
    assert breadth_first(rows, np.array([0, 0])).tolist() == [0, 1, 2]
    assert breadth_first(rows, np.empty(0, np.int64)).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", [np.int64, float, object])
def test_sums_follow_every_edge(dag: Any, kind: Any) -> None:
    level = topological_levels(adjacency(*dag))
    sums = DagSweep(adjacency(dag[0], dag[2], dag[1]), level).sums(np.ones(dag[0], np.int64).astype(kind))
    expected: dict[int, int] = {}
    graph = graph_of(dag)
    for node in nx.topological_sort(graph):
        expected[node] = 1 + sum(expected[u] for u, _ in graph.in_edges(node))
    assert sums.tolist() == [expected[node] for node in range(dag[0])]
