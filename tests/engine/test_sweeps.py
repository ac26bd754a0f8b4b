"""Sweeps against brute force on the explicit edge list."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch

import deepstruct
from deepstruct.engine import BOOLEAN, LONGEST, SHORTEST, Counting, Modular, fixpoint, passes, sweep
from deepstruct.errors import MetricError
from tests.random_nets import random_net

SEEDS = range(40)


def _brute(graph):
    edges = graph.edge_list()
    after = defaultdict(list)
    for u, v in zip(edges.source.tolist(), edges.target.tolist(), strict=True):
        after[u].append(v)
    return edges, after


def _topological(n, after):
    waiting = [0] * n
    for targets in after.values():
        for v in targets:
            waiting[v] += 1
    ready = [v for v in range(n) if not waiting[v]]
    for u in ready:
        for v in after[u]:
            waiting[v] -= 1
            if not waiting[v]:
                ready.append(v)
    assert len(ready) == n
    return ready


@pytest.mark.parametrize("seed", SEEDS)
def test_paths_lengths_and_reach(seed):
    graph = deepstruct.extract(*random_net(seed))
    edges, after = _brute(graph)
    n = edges.num_nodes
    count, longest, shortest = [0] * n, [-1] * n, [-1] * n
    for u in edges.inputs:
        count[u], longest[u], shortest[u] = 1, 0, 0
    for u in _topological(n, after):
        for v in after[u]:
            count[v] += count[u]
            if longest[u] >= 0:
                longest[v] = max(longest[v], longest[u] + 1)
                shortest[v] = shortest[u] + 1 if shortest[v] < 0 else min(shortest[v], shortest[u] + 1)
    nodes = graph.slots_to_nodes
    start = torch.where(graph.is_source, 0, -1)
    assert nodes(passes.paths_from_sources(graph)).tolist() == count
    assert nodes(sweep(graph, start, LONGEST), "max").tolist() == longest
    assert nodes(sweep(graph, start, SHORTEST), "min").tolist() == shortest
    assert (nodes(sweep(graph, graph.is_source, BOOLEAN)) > 0.5).tolist() == [c > 0 for c in count]
    for prime in (7, 1_000_003, 562_949_953_421_231):  # small ones matter on counts that are small
        residues = nodes(sweep(graph, graph.is_source, Modular(prime))) % prime  # two carriers make a score
        assert residues.tolist() == [c % prime for c in count]
    assert passes.path_count(graph) == sum(count[v] for v in edges.outputs)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_near_a_large_prime(seed):
    """Residues of any start, against Python integers along the edges."""
    graph = deepstruct.extract(*random_net(seed))
    edges, after = _brute(graph)
    prime = 562_949_953_421_231
    start = torch.randint(prime - 1000, prime, (graph.num_slots,)) * graph.is_node
    count = graph.slots_to_nodes(start).tolist()
    for u in _topological(edges.num_nodes, after):
        for v in after[u]:
            count[v] = (count[v] + count[u]) % prime
    assert (graph.slots_to_nodes(sweep(graph, start, Modular(prime))) % prime).tolist() == count


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("transpose", [False, True])
def test_eight_sweeps_in_one(seed, transpose):
    graph = deepstruct.extract(*random_net(seed))
    marks = torch.rand(8, graph.num_slots) < 0.1
    packed = sum(mark.to(torch.uint8) << k for k, mark in enumerate(marks))
    out = sweep(graph, packed, BOOLEAN, transpose=transpose)
    for k, mark in enumerate(marks):
        assert torch.equal((out >> k) & 1, sweep(graph, mark, BOOLEAN, transpose=transpose))


@pytest.mark.parametrize("seed", SEEDS)
def test_forward_and_transposed_passes_meet(seed):
    """The number of paths is the same counted from either end, and splits over any unit."""
    graph = deepstruct.extract(*random_net(seed))
    ahead, back = passes.paths_from_sources(graph), passes.paths_to_outputs(graph)
    assert float(ahead[graph.is_output].sum()) == float(back[graph.is_source].sum())
    assert graph.total(passes.in_degree(graph)) == graph.num_edges
    assert graph.total(passes.out_degree(graph)) == graph.num_edges


@pytest.mark.parametrize("seed", SEEDS)
def test_degrees_and_strength(seed):
    graph = deepstruct.extract(*random_net(seed))
    edges = graph.edge_list()
    n = edges.num_nodes
    nodes = graph.slots_to_nodes
    assert nodes(passes.in_degree(graph)).tolist() == np.bincount(edges.target, minlength=n).tolist()
    assert nodes(passes.out_degree(graph)).tolist() == np.bincount(edges.source, minlength=n).tolist()
    weight = np.abs(np.nan_to_num(edges.weight))
    strength = np.bincount(edges.source, weight, n) + np.bincount(edges.target, weight, n)
    assert np.allclose(nodes(passes.strength(graph)), strength, rtol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_weighted_paths(seed):
    """Sums over paths of |w| along their edges (structural edges count 1), against a dense matrix power series."""
    graph = deepstruct.extract(*random_net(seed))
    edges = graph.edge_list()
    if edges.num_nodes > 600:
        pytest.skip("too large for a dense matrix")
    weight = np.where(np.isnan(edges.weight), 1.0, np.abs(edges.weight))
    matrix = np.zeros((edges.num_nodes, edges.num_nodes))
    np.add.at(matrix, (edges.source, edges.target), weight)
    value = np.zeros(edges.num_nodes)
    value[edges.inputs] = 1
    start = value.copy()
    for _ in range(edges.num_nodes):
        following = start + value @ matrix
        if np.array_equal(following, value):
            break
        value = following
    found = graph.slots_to_nodes(sweep(graph, graph.is_source, Counting(mode="abs")))
    assert np.allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize("seed", range(16))
def test_fixpoint_floods_components(seed):
    import networkx as nx

    graph = deepstruct.extract(*random_net(seed))
    explicit = nx.Graph(graph.to_networkx().to_undirected())
    start = torch.zeros(graph.num_slots)
    first = int(graph.is_node.to(torch.uint8).argmax())
    start[first] = 1
    node = int(graph.node_ids()[first])
    flooded = graph.slots_to_nodes(fixpoint(graph, start)) > 0.5
    assert set(np.flatnonzero(flooded).tolist()) == nx.node_connected_component(explicit, node)


def test_sweep_refuses_cycles():
    from torch import nn

    graph = deepstruct.extract(nn.RNN(2, 3, batch_first=True), torch.randn(1, 4, 2), order="first")
    assert not graph.is_dag
    with pytest.raises(MetricError, match="cycles"):
        sweep(graph, graph.is_source, BOOLEAN)


def _path_norm_net():
    from torch import nn

    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        net[2].weight.copy_(torch.tensor([[2.0, -1.0]]))
    return net


def test_path_norms_and_synflow_of_a_known_network():
    wanted = ["path_norm", "path_norm_squared", "layer_synflow"]
    report = deepstruct.analyze(_path_norm_net(), torch.randn(1, 2), orders="zeroth", metrics=wanted)
    assert report["zeroth"]["path_norm"] == 9.0
    assert report["zeroth"]["path_norm_squared"] == 29.0
    assert [row["synflow"] for row in report.layers("zeroth")] == [9.0, 9.0]


@pytest.mark.parametrize("seed", range(10))
def test_synflow_is_conserved_along_a_chain(seed):
    from torch import nn

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 5)
    )
    graph = deepstruct.extract(net, torch.randn(1, 2, 6, 6))
    amounts = passes.synflow(graph)
    assert amounts == pytest.approx([passes.path_norm(graph, "abs")] * len(amounts), rel=1e-6)
