"""Neural persistence against its published values and against spanning trees of networkx; Betti numbers."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
import torch
from random_nets import random_net
from torch import nn

import deepstruct
from deepstruct.engine.persistence import maximum_spanning_tree, neural_persistence, weight_layers

NAMES = [
    f"{head}{tail}"
    for head in ("layer_total_persistence", "layer_neural_persistence", "neural_persistence")
    for tail in ("", "_finite")
]


def measure(net: nn.Module, x: torch.Tensor, names: list[str] | None = None) -> dict:
    report = deepstruct.analyze(net.eval(), x, orders="zeroth", metrics=names or NAMES, analyzer="operator")
    assert report.skipped == []
    return {row.name: row.value for row in report.rows}


def linear(*matrices: torch.Tensor) -> nn.Module:
    net = nn.Sequential()
    for matrix in matrices:
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
        with torch.no_grad():
            layer.weight.copy_(matrix)
        net.append(layer)
    return net


def test_the_authors_value() -> None:
    """W = [[1, .5], [.25, -.75]]: the spanning tree is 1, .75, .5."""
    values = measure(linear(torch.tensor([[1, 0.5], [0.25, -0.75]])), torch.randn(1, 2))
    assert values["layer_total_persistence"]["0"] == pytest.approx(1.14564392373896)
    assert values["layer_neural_persistence"]["0"] == pytest.approx(0.6614378277661477)
    assert values["layer_total_persistence_finite"]["0"] == pytest.approx(0.559016994375)
    assert values["layer_neural_persistence_finite"]["0"] == pytest.approx(0.322748612184)
    assert values["neural_persistence"] == pytest.approx(0.6614378277661477)
    assert values["neural_persistence_finite"] == pytest.approx(0.322748612184)


def tree_by_networkx(matrix: np.ndarray) -> np.ndarray:
    graph = nx.complete_bipartite_graph(*matrix.shape)
    for u, v in graph.edges():
        graph[u][v]["weight"] = float(matrix[u, v - matrix.shape[0]])
    edges = nx.maximum_spanning_edges(graph, data=True)
    return np.array(sorted((d["weight"] for _, _, d in edges), reverse=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (5, 8), (9, 4), (12, 12)])
@pytest.mark.parametrize("keep", [0.0, 0.3, 1.0])
def test_spanning_trees_are_those_of_networkx(shape: tuple[int, int], keep: float) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        matrix = rng.random(shape) * (rng.random(shape) < keep)
        if seed % 2:
            matrix = np.round(matrix, 1)  # equal weights
        np.testing.assert_allclose(maximum_spanning_tree(matrix), tree_by_networkx(matrix))


def test_empty_sides_have_no_tree() -> None:
    assert maximum_spanning_tree(np.empty((0, 3))).size == 0
    assert maximum_spanning_tree(np.empty((3, 0))).size == 0


def test_absent_connections_have_weight_zero() -> None:
    """Two components: the tree needs an edge of weight 0, which persists for the whole filtration."""
    values = measure(linear(torch.eye(2)), torch.randn(1, 2))
    assert values["layer_total_persistence_finite"]["0"] == 1
    assert values["layer_neural_persistence_finite"]["0"] == pytest.approx(1 / math.sqrt(3))
    zero = measure(linear(torch.zeros(3, 2)), torch.randn(1, 2))
    assert zero["layer_neural_persistence_finite"]["0"] == 1


def test_the_largest_weight_is_that_of_all_layers() -> None:
    values = measure(linear(torch.full((2, 2), 0.5), torch.full((1, 2), -2.0)), torch.randn(1, 2))
    assert values["layer_total_persistence_finite"] == pytest.approx({"0": math.sqrt(3) * 0.75, "1": 0.0})
    assert values["neural_persistence_finite"] == pytest.approx(0.75 / 2)


def by_hand(blocks: list[np.ndarray], largest: float) -> tuple[float, float]:
    """(total with essential classes, normalized without) from trees of networkx."""
    trees = np.concatenate([tree_by_networkx(block / largest) for block in blocks])
    finite = ((1 - trees) ** 2).sum()
    return math.sqrt(finite + len(blocks)), math.sqrt(finite / len(trees))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_join_channels_by_their_strongest_tap(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    net = kind(4, 6, 3, padding=1, groups=groups, bias=False)
    values = measure(net, torch.randn(1, 4, 5, 5))
    weight = net.weight.detach().abs().amax((2, 3)).double().numpy()
    blocks = np.split(weight, groups)
    total, normalized = by_hand(blocks, weight.max())
    assert list(values["layer_total_persistence"].values()) == pytest.approx([total])
    assert list(values["layer_neural_persistence_finite"].values()) == pytest.approx([normalized])


def test_taps_on_padding_do_not_count() -> None:
    net = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    values = measure(net, torch.randn(1, 2, 1, 1))
    middle = net.weight.detach()[:, :, 1, 1].abs().double().numpy()
    assert list(values["layer_total_persistence"].values()) == pytest.approx([by_hand([middle], middle.max())[0]])


def test_tied_weights_are_one_layer_and_masks_count() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.a(torch.relu(self.a(x)))) @ self.a.weight

    net = Tied().eval()
    assert len(weight_layers(deepstruct.extract(net, torch.randn(1, 3)))) == 1
    cut = deepstruct.extract(net, torch.randn(1, 3), threshold=0.3)
    (layer,) = weight_layers(cut)
    weight = net.a.weight.detach().abs()
    np.testing.assert_allclose(np.sort(layer.blocks[0].ravel()), np.sort((weight * (weight > 0.3)).numpy().ravel()))


@pytest.mark.parametrize("seed", range(15))
def test_random_nets(seed: int) -> None:
    graph = deepstruct.extract(*random_net(seed))
    layers = weight_layers(graph)
    largest = max(layer.largest for layer in layers)
    for layer, found in zip(layers, neural_persistence(layers).values(), strict=True):
        total, normalized = by_hand([b.astype(float) for b in layer.blocks], largest)
        assert found.total(essential=True) == pytest.approx(total)
        assert found.normalized(essential=False) == pytest.approx(normalized)
        assert 0 <= found.normalized(essential=False) <= 1
        assert found.essential + len(found.finite) == layer.vertices


@pytest.mark.parametrize("seed", range(12))
def test_betti_numbers(seed: int) -> None:
    net, x = random_net(seed)
    values = [
        {row.name: row.value for row in deepstruct.analyze(
            net, x, orders=("zeroth", "second"), metrics=["beta_0", "beta_1", "beta_1_simple"], analyzer=analyzer
        ).rows if row.order == "zeroth"}
        for analyzer in ("operator", "igraph", "networkx")
    ]  # fmt: skip
    graph = deepstruct.extract(net, x)
    edges = graph.edge_list()
    simple = nx.Graph()
    simple.add_nodes_from(range(graph.num_nodes))
    simple.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    components = nx.number_connected_components(simple)
    cycles = len(nx.cycle_basis(simple))
    assert values[0] == {"beta_0": components, "beta_1": graph.num_edges - graph.num_nodes + components}
    assert values[1] == values[2] == {**values[0], "beta_1_simple": cycles}
    assert values[0]["beta_1"] - cycles == graph.num_parallel_edges
