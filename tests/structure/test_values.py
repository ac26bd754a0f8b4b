"""Numbers that are known by hand, or from the literature, for graphs at zeroth order."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from deepstruct.testing import build_graph, count_paths


def ones(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    return model.eval()


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """y = x + W2 relu(W1 x)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


class Wide(nn.Module):
    """y = x + W x: the identity is parallel to the diagonal of W."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.linear(x)


def test_mlp() -> None:
    graph = build_graph(ones(mlp(4, 3, 2)), torch.randn(1, 4))
    assert (graph.num_nodes, graph.num_edges, graph.num_weight_edges) == (9, 18, 18)
    assert count_paths(graph) == 24
    assert graph.num_parallel_edges == 0
    assert (graph.num_parameters, graph.num_weights, graph.num_nonzero_weights) == (18, 18, 18)


def masked_mlp() -> nn.Sequential:
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]))
        model[2].weight.copy_(torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    return model


def test_masked_mlp() -> None:
    graph = build_graph(masked_mlp(), torch.randn(1, 4))
    assert (graph.num_nodes, graph.num_edges) == (9, 6)
    assert (graph.num_weights, graph.num_nonzero_weights) == (18, 6)
    assert count_paths(graph) == 2


@pytest.mark.parametrize(
    ("layer", "shape", "nodes", "edges"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), (1, 2, 5, 5), 125, 1014),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), (1, 1, 6, 6), 45, 64),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 4, 4), 128, 400),
    ],
    ids=["3x3", "stride", "depthwise"],
)
def test_convolutions_count_taps_that_read_a_unit(
    layer: nn.Module, shape: tuple[int, ...], nodes: int, edges: int
) -> None:
    graph = build_graph(layer, torch.randn(shape))
    assert (graph.num_nodes, graph.num_edges) == (nodes, edges)
    assert count_paths(graph) == edges


def test_two_convolutions() -> None:
    model = ones(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)))
    graph = build_graph(model, torch.randn(1, 1, 4, 4))
    assert graph.num_edges == 400
    assert count_paths(graph) == 1352


def test_residual() -> None:
    graph = build_graph(ones(Residual()), torch.randn(1, 3))
    assert (graph.num_nodes, graph.num_edges, graph.num_structural_edges) == (8, 15, 3)
    assert count_paths(graph) == 21


def test_parallel_edges_count() -> None:
    graph = build_graph(ones(Wide()), torch.randn(1, 4))
    assert (graph.num_nodes, graph.num_edges, graph.num_parallel_edges) == (8, 20, 4)
    upsampled = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3, padding=1, bias=False))
    graph = build_graph(ones(upsampled), torch.randn(1, 1, 3, 3))
    assert (graph.num_edges, graph.num_parallel_edges) == (256, 156)


def test_unrolled_rnn() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[1]

    graph = build_graph(ones(Last()), torch.randn(4, 1, 2))
    assert (graph.num_nodes, graph.num_edges) == (20, 51)
    assert count_paths(graph) == 240


def test_bottleneck() -> None:
    graph = build_graph(ones(mlp(4, 1, 4)), torch.randn(1, 4))
    assert (graph.num_nodes, graph.num_edges) == (9, 8)
    assert count_paths(graph) == 16


def test_the_batch_is_no_part_of_a_sample() -> None:
    """Samples do not meet: a batch of two has twice of everything."""
    one, two = (build_graph(ones(mlp(4, 3, 2)), torch.randn(n, 4)) for n in (1, 2))
    assert (two.num_nodes, two.num_edges) == (2 * one.num_nodes, 2 * one.num_edges)


def test_mlp_as_other_libraries_see_it() -> None:
    graph = build_graph(ones(mlp(4, 3, 2)), torch.randn(1, 4))
    matrix = graph.to_scipy()
    assert matrix.shape == (9, 9)
    assert matrix.sum() == 18
    directed = graph.to_networkx()
    assert directed.number_of_edges() == 18
    assert {d["role"] for _, d in directed.nodes(data=True)} == {"input", "hidden", "output"}
    assert all(d["weight"] == 1 for _, _, d in directed.edges(data=True))
    assert graph.to_igraph().ecount() == 18


def test_parallel_edges_in_other_libraries() -> None:
    graph = build_graph(ones(Wide()), torch.randn(1, 4))
    assert graph.to_networkx().is_multigraph()
    assert graph.to_networkx().number_of_edges() == 20
    assert graph.to_scipy().nnz == 16
    assert graph.to_scipy().sum() == 20
    assert graph.to_scipy(weights=True).max() == 2  # the identity counts 1
