"""Sweeps without some nodes: equal to searches on the explicit graph without them."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from random_nets import random_net
from torch import nn

import deepstruct
from deepstruct.engine import budget
from deepstruct.engine.masked_sweep import EVERY, effective_after, keep_words, masked_sweep
from deepstruct.errors import BudgetError
from deepstruct.structure.graph import StructureGraph


def explicit(graph: StructureGraph) -> nx.MultiDiGraph:
    edges = graph.edge_list()
    net = nx.MultiDiGraph()
    net.add_nodes_from(range(graph.num_nodes))
    net.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    return net


def brute_force(graph: StructureGraph, net: nx.MultiDiGraph, removed: np.ndarray) -> tuple[int, int]:
    """Effective nodes and edges of the graph without some nodes."""
    left = net.copy()
    left.remove_nodes_from(removed.tolist())
    ahead = {n for n in graph.input_nodes().tolist() if n in left}
    back = {n for n in graph.output_nodes().tolist() if n in left}
    ahead |= {v for u in list(ahead) for v in nx.descendants(left, u)}
    back |= {v for u in list(back) for v in nx.ancestors(left, u)}
    alive = ahead & back
    return len(alive), sum(u in alive and v in alive for u, v in left.edges())


def some_removals(graph: StructureGraph, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    n = graph.num_nodes
    return [np.empty(0, np.int64), *(np.flatnonzero(rng.random(n) < rng.random()) for _ in range(count - 1))]


@pytest.mark.parametrize("seed", range(30))
def test_random_nets_without_some_nodes(seed: int) -> None:
    graph = deepstruct.extract(*random_net(seed), attention="units")
    net, removed = explicit(graph), some_removals(graph, 5)
    expected = [brute_force(graph, net, ids) for ids in removed]
    assert effective_after(graph, removed) == [nodes for nodes, _ in expected]
    assert effective_after(graph, removed, edges=True) == [edges for _, edges in expected]


@pytest.mark.parametrize("seed", [2, 5, 11])
def test_more_removals_than_a_word_has_bits(seed: int) -> None:
    graph = deepstruct.extract(*random_net(seed), attention="units")
    removed = some_removals(graph, 130)
    assert effective_after(graph, removed) == [n for ids in removed for n in effective_after(graph, [ids])]


@pytest.mark.parametrize("seed", range(6))
def test_channels_with_cycles_among_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = nx.MultiDiGraph()
    net.add_nodes_from(range(9))
    net.add_edges_from(rng.integers(0, 9, (22, 2)).tolist())
    graph = StructureGraph.from_networkx(net, inputs=[0, 1], outputs=[7, 8])
    removed = some_removals(graph, 12)
    assert [brute_force(graph, explicit(graph), ids) for ids in removed] == list(
        zip(effective_after(graph, removed), effective_after(graph, removed, edges=True), strict=True)
    )


def test_all_bits_are_sweeps_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(3, 66, bias=False), nn.Linear(66, 2, bias=False)).eval()
    graph = deepstruct.extract(net, torch.randn(1, 3))
    removed = [np.delete(np.arange(3, 69), k) for k in range(64)]  # one hidden node is left
    keep = keep_words(graph, removed)
    start = torch.where(graph.is_source, EVERY, 0)
    reached = masked_sweep(graph, start, keep)
    hidden = reached[3:69]
    assert [int(h) for h in hidden[:63]] == [1 << k for k in range(63)]
    assert int(hidden[63]) == -(1 << 63)
    assert hidden[64:].tolist() == [0, 0]
    assert reached[69:].tolist() == [EVERY, EVERY]
    assert effective_after(graph, removed) == [6] * 64
    assert effective_after(graph, removed, edges=True) == [5] * 64


def test_what_is_part_of_a_removed_sum_goes_with_it() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.a(x) + self.b(x)))

    graph = deepstruct.extract(Sum().eval(), torch.randn(1, 2))
    assert graph.num_nodes == 6
    assert effective_after(graph, [np.array([2]), np.array([2, 3, 4])]) == [5, 0]
    assert effective_after(graph, [np.array([2])], edges=True) == [2 * 2 * 2 + 2]


def test_the_budget_of_time_holds() -> None:
    graph = deepstruct.extract(*random_net(1))
    with budget.limited(1e-9), pytest.raises(BudgetError):
        effective_after(graph, [np.array([0])])
