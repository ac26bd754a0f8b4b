"""Searches, surveys, bounds, betweenness, counters and components, against networkx on the explicit graph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine import bfs, brandes, components, hyperball, passes, reach
from deepstruct.engine.steps import Steps
from deepstruct.engine.survey import diameter_bounds, eccentricity_bounds, survey
from deepstruct.errors import MetricError
from tests.engine.explicit import directed, net, slots_of, small

SEEDS = range(24)


def _oriented(graph, direction):
    explicit = directed(graph)
    return {"out": explicit, "in": explicit.reverse(), "both": explicit.to_undirected()}[direction]


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_and_levels(seed):
    graph = net(seed)
    steps, n = Steps(graph), graph.num_nodes
    chosen = np.random.default_rng(seed).integers(0, n, 4)
    for direction in ("out", "in", "both"):
        explicit = _oriented(graph, direction)
        found = bfs.distances(steps, slots_of(graph, chosen), direction)
        levels = bfs.levels(steps, slots_of(graph, chosen), direction)
        for row, counts, source in zip(found, levels, chosen.tolist(), strict=True):
            expected = np.full(n, -1)
            for node, distance in nx.single_source_shortest_path_length(explicit, source).items():
                expected[node] = distance
            assert graph.slots_to_nodes(row).tolist() == expected.tolist()
            assert counts.tolist() == np.bincount(expected[expected >= 0], minlength=len(counts)).tolist()
            assert (row[~graph.is_node] == -1).all()
            # the distance changes by one at most across an edge
            ends = graph.edge_list()
            inside = (expected[ends.source] >= 0) & (expected[ends.target] >= 0)
            apart = expected[ends.target][inside] - expected[ends.source][inside]
            assert not len(apart) or {"out": apart.max(), "in": -apart.min(), "both": abs(apart).max()}[direction] <= 1


def test_searches_from_more_than_64_nodes():
    graph = net(1)
    steps, n = Steps(graph), graph.num_nodes
    assert n > 64
    table = dict(nx.all_pairs_shortest_path_length(directed(graph).to_undirected()))
    matrix = np.array([[table[u].get(v, -1) for v in range(n)] for u in range(n)])
    found = survey(steps, slots_of(graph, range(n)))
    assert found.levels.sum(1).tolist() == (matrix >= 0).sum(1).tolist()
    assert found.eccentricities.tolist() == matrix.max(1).tolist()
    away = np.where(matrix > 0, matrix, 0)
    assert graph.slots_to_nodes(found.total).tolist() == away.sum(0).tolist()
    assert graph.slots_to_nodes(found.reached).tolist() == (matrix > 0).sum(0).tolist()
    inverse = np.divide(1.0, matrix, out=np.zeros(matrix.shape), where=matrix > 0)
    assert np.allclose(graph.slots_to_nodes(found.inverse), inverse.sum(0))
    with pytest.raises(ValueError, match="64"):
        next(bfs.waves(steps, slots_of(graph, range(65))))


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_bounds_hold(seed):
    graph = net(seed)
    steps, explicit = Steps(graph), directed(graph).to_undirected()
    chosen = np.random.default_rng(seed).choice(graph.num_nodes, 5, replace=False)
    seeds = slots_of(graph, chosen)
    farthest = survey(steps, seeds).eccentricities
    lower, upper = (graph.slots_to_nodes(bound) for bound in eccentricity_bounds(steps, seeds, farthest))
    for part in nx.connected_components(explicit):
        exact = nx.eccentricity(explicit.subgraph(part))
        for node, value in exact.items():
            if part.isdisjoint(chosen.tolist()):
                assert np.isnan(lower[node])
                assert np.isnan(upper[node])
            else:
                assert lower[node] <= value <= upper[node]
        low, high = diameter_bounds(steps, int(slots_of(graph, [min(part)])))
        assert low <= max(exact.values()) <= high


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_betweenness_from_all_nodes(seed):
    graph = net(seed)
    if graph.num_parallel_edges or graph.num_nodes > 300:
        graph = deepstruct.extract(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5), nn.Linear(5, 2)), torch.randn(1, 4))
    found = brandes.dependencies(Steps(graph), slots_of(graph, range(graph.num_nodes)))
    expected = nx.betweenness_centrality(directed(graph), normalized=False)
    assert np.allclose(graph.slots_to_nodes(found), [expected[k] for k in range(graph.num_nodes)])


def test_shortest_paths_beyond_float64_are_counted():
    """100**200 shortest paths from one end to the other: every hidden unit of a layer lies on its share."""
    width, depth = 100, 200
    layers = [nn.Linear(1, width), *(nn.Linear(width, width) for _ in range(depth - 1)), nn.Linear(width, 1)]
    graph = deepstruct.extract(nn.Sequential(*layers), torch.randn(1, 1))
    found = brandes.dependencies(Steps(graph), torch.tensor([0]))
    for k in (1, depth // 2, depth):
        onward = (depth - k) * width + 1  # nodes behind the layer
        assert found[graph.spaces[k].slots].tolist() == pytest.approx([onward / width] * width)


@pytest.mark.parametrize("seed", SEEDS)
def test_components(seed):
    graph = net(seed)
    expected = list(nx.connected_components(directed(graph).to_undirected()))
    alone = graph.is_node & (passes.in_degree(graph) + passes.out_degree(graph) == 0)
    labels = components.component_labels(graph, alone)
    sizes = sorted(map(len, expected), reverse=True)
    assert components.component_sizes(labels) == sizes
    for spread in (components._by_largest, components._by_floods):  # from the start, not only for what floods leave
        labels = torch.full((graph.num_slots,), -1)
        labels[alone] = alone.nonzero().reshape(-1)
        spread(graph, labels, graph.is_node & ~alone)
        nodes = graph.slots_to_nodes(labels)
        assert {frozenset(np.flatnonzero(nodes == label).tolist()) for label in set(nodes.tolist())} == {
            frozenset(part) for part in expected
        }


def test_many_components_of_several_nodes():
    """A depthwise convolution keeps the channels apart: as many components as channels, each of many nodes."""
    model = nn.Sequential(nn.Conv2d(90, 90, 3, padding=1, groups=90), nn.ReLU(), nn.Conv2d(90, 90, 1, groups=90))
    graph = deepstruct.extract(model, torch.randn(1, 90, 4, 4))
    labels = components.component_labels(graph, torch.zeros(graph.num_slots, dtype=torch.bool))
    assert components.component_sizes(labels) == [48] * 90


@pytest.mark.parametrize("seed", range(0, 24, 2))
def test_reach(seed):
    graph = net(seed)
    explicit = directed(graph)
    for transpose in (False, True):
        oriented = explicit.reverse() if transpose else explicit
        count = 0
        for part, words in reach.reaches(graph, slots_of(graph, range(0, graph.num_nodes, 3)), transpose=transpose):
            nodes = graph.slots_to_nodes(words)
            for bit, node in enumerate(graph.node_ids()[part].tolist()):
                assert set(np.flatnonzero((nodes >> bit) & 1).tolist()) == nx.descendants(oriented, node) | {node}
                count += 1
        assert count == len(range(0, graph.num_nodes, 3))


@pytest.mark.parametrize("seed", [0, 3])
def test_counters_of_balls(seed):
    graph = small(seed)
    explicit = directed(graph).to_undirected()
    found = hyperball.balls(Steps(graph), log2m=8)
    pairs = [d for _, row in nx.all_pairs_shortest_path_length(explicit) for d in row.values() if d]
    assert found.error < 0.07
    assert found.mean_distance == pytest.approx(np.mean(pairs), rel=0.08)
    assert found.sizes[0] == pytest.approx(graph.num_nodes, rel=0.03)
    assert found.sizes[-1] == pytest.approx(len(pairs) + graph.num_nodes, rel=0.1)
    assert found.sizes == sorted(found.sizes)
    harmonic = nx.harmonic_centrality(explicit)
    exact = np.array([harmonic[k] for k in range(graph.num_nodes)])
    assert np.corrcoef(graph.slots_to_nodes(found.harmonic), exact)[0, 1] > 0.95
    assert hyperball.balls(Steps(graph), log2m=8).sizes == found.sizes
    assert hyperball.balls(Steps(graph), log2m=8, seed=1).sizes != found.sizes
    with pytest.raises(MetricError, match="hyperball_log2m"):
        hyperball.balls(Steps(graph), log2m=3)
