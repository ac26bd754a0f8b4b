"""The adjacency map against the explicit edge list."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine.adjacency import adjacency_action, bilinear, has_vector_entry, symmetric_action
from deepstruct.structure.graph import StructureGraph
from tests.random_nets import random_net


def explicit(graph, mode="pattern", structural=True):
    """(edges,) sources, targets and values of the explicit multigraph."""
    edges = graph.edge_list()
    own = ~np.isnan(edges.weight)
    weight = np.nan_to_num(edges.weight)
    value = {"pattern": np.ones_like(weight), "abs": abs(weight), "square": weight**2, "signed": weight}[mode]
    value = np.where(own, value, 1.0 if structural else 0.0)
    return edges.source, edges.target, value


def check(graph, mode, structural=True):
    source, target, value = explicit(graph, mode, structural)
    x = torch.randn(graph.num_slots, dtype=torch.float64)
    at = graph.slots_to_nodes(x)
    n = graph.num_nodes
    into = np.bincount(target, value * at[source], minlength=n)
    out_of = np.bincount(source, value * at[target], minlength=n)
    ahead = adjacency_action(graph, x, mode=mode, structural=structural)
    back = adjacency_action(graph, x, transpose=True, mode=mode, structural=structural)
    assert np.allclose(graph.slots_to_nodes(ahead), into, rtol=1e-9, atol=1e-9)
    assert np.allclose(graph.slots_to_nodes(back), out_of, rtol=1e-9, atol=1e-9)
    assert not ahead[~(graph.is_node | graph.is_carrier)].any()
    assert not back[~(graph.is_node | graph.is_carrier)].any()
    if mode == "pattern" and structural:
        own = has_vector_entry(graph)
        rows = [torch.randn(graph.num_slots, dtype=torch.float64) * own for _ in range(2)]
        found = bilinear(graph, rows, x)
        assert np.allclose(found, [graph.dot(row, back) for row in rows], rtol=1e-9, atol=1e-7)
    both = symmetric_action(graph, x, mode=mode, structural=structural)
    assert np.allclose(graph.slots_to_nodes(both), into + out_of, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", range(10))
def test_equals_the_explicit_edges(chunk):
    for seed in range(chunk, 80, 10):
        graph = deepstruct.extract(*random_net(seed))
        if graph.num_edges < 20_000:
            check(graph, ("pattern", "abs", "square", "signed")[seed % 4], structural=seed % 3 > 0)


@pytest.mark.parametrize("order", ["first", "second", "third"])
def test_higher_orders(order):
    for seed in range(12):
        check(deepstruct.extract(*random_net(seed)).quotient(order), "pattern")


def test_cycles_loops_and_parallel_edges():
    multi = nx.MultiDiGraph([(0, 1), (0, 1), (1, 2), (2, 0), (2, 2), (3, 2)])
    graph = StructureGraph.from_networkx(multi)
    assert not graph.is_dag
    check(graph, "pattern")


def test_sums_within_sums():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            a, b, c, d = (layer(x) for layer in self.layers)
            return torch.relu((a + b) + (c + x)) + d

    graph = deepstruct.extract(Net(), torch.randn(1, 4))
    assert graph.parent is not None
    assert graph.num_nodes < graph.num_slots
    for mode in ("pattern", "abs", "signed"):
        check(graph, mode)
        check(graph, mode, structural=False)
