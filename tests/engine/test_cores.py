"""k-cores by rounds of peeling, against networkx and against peeling one node at a time."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine import cores, passes
from deepstruct.engine.steps import Steps
from deepstruct.structure.graph import StructureGraph
from tests.engine.explicit import directed, net


def _numbers(graph):
    found = cores.core_numbers(Steps(graph), passes.in_degree(graph) + passes.out_degree(graph))
    return graph.slots_to_nodes(found.numbers).tolist(), found.rounds


@pytest.mark.parametrize("seed", range(40))
def test_equal_to_networkx_without_parallel_edges(seed):
    graph = net(seed)
    if graph.num_parallel_edges:
        pytest.skip("parallel edges")
    expected = nx.core_number(directed(graph).to_undirected())
    assert _numbers(graph)[0] == [expected[k] for k in range(graph.num_nodes)]


@pytest.mark.parametrize("seed", range(30))
def test_multigraphs_with_loops_and_cycles(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 15))
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(rng.integers(0, size, (int(rng.integers(0, 40)), 2)).tolist())
    structure = StructureGraph.from_networkx(graph, inputs=[], outputs=[])
    left, expected, level = graph.copy(), {}, 0
    while left:
        node, degree = min(left.degree(), key=lambda pair: pair[1])
        level = max(level, degree)
        expected[node] = level
        left.remove_node(node)
    names = [row["label"] for row in structure.node_table()]
    assert _numbers(structure)[0] == [expected[int(name)] for name in names]


def test_dense_perceptron_is_one_core():
    graph = deepstruct.extract(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(1, 4))
    numbers, rounds = _numbers(graph)
    assert numbers == [3] * 9
    assert rounds <= 3
