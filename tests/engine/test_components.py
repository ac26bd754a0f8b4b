"""Components that are many, or long: beyond the two that are flooded, nodes are labelled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

import deepstruct
from deepstruct.engine import components

LENGTH = 512


class Chains(nn.Module):
    """Three channels, each a path that winds through its input and its output: a tap reads i and i + 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 2, groups=3)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return self.conv(x)


def _labels(model, x):
    graph = deepstruct.extract(model, x, order="zeroth")
    labels = components.component_labels(graph, torch.zeros(graph.num_slots, dtype=torch.bool))
    return graph, labels


def test_long_paths_take_few_sweeps(monkeypatch):
    sweeps = []
    shared = components._shared
    monkeypatch.setattr(components, "_shared", lambda graph, slots: sweeps.append(1) or shared(graph, slots))
    _, labels = _labels(Chains(), torch.ones(1, 3, LENGTH))
    assert components.component_sizes(labels) == [2 * LENGTH - 1] * 3
    assert len(sweeps) < 4 * np.log2(LENGTH)  # a window at a time, it would be hundreds


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3])
def test_labels_are_those_of_the_edges(density):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1))
    for layer in (model[0], model[2]):
        layer.weight.data *= torch.rand_like(layer.weight) < density
    graph, labels = _labels(model, torch.ones(1, 4, 10, 10))
    edges = graph.edge_list()
    nodes = graph.num_nodes
    matrix = coo_array((np.ones(len(edges.source)), (edges.source, edges.target)), (nodes, nodes))
    number, wanted = connected_components(matrix, directed=False)
    found = labels[graph.is_node].numpy()
    assert number > 2 + components._FLOODS
    assert len(set(zip(found.tolist(), wanted.tolist(), strict=True))) == number == len(set(found.tolist()))
