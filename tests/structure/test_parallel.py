"""Parallel edges are counted without writing the graph down, and the count is that of the edge list."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_nets import random_net
from torch import nn

import deepstruct
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.parallel import count_parallel


def on_the_edge_list(graph: StructureGraph) -> int:
    edges = graph.edge_list()
    pairs = np.stack([edges.source, edges.target])
    return edges.num_edges - len(np.unique(pairs, axis=1).T)


@pytest.mark.parametrize("seed", range(120))
def test_equals_the_edge_list(seed: int) -> None:
    graph = deepstruct.extract(*random_net(seed))
    assert graph.num_parallel_edges == on_the_edge_list(graph)


class Twice(nn.Module):
    """Two layers that read the same units and end in the same sum."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.first, self.second, self.shared = nn.Linear(6, 4), nn.Linear(6, 4), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = x if self.shared else x.flip(-1).cumsum(-1)
        return self.first(x) + self.second(other)


class Halves(nn.Module):
    """One layer whose two halves end in one sum: it writes a node at two elements."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.layer(x).chunk(2, -1)
        return first + second


class Skip(nn.Module):
    """The middle tap of the convolution and the skip join the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


@pytest.mark.parametrize(
    ("model", "shape", "wanted"),
    [(Twice(True), (1, 6), 24), (Halves(), (1, 6), 24), (Skip(), (1, 2, 5, 5), 50), (nn.Linear(3, 2), (1, 3), 0)],
    ids=["two layers", "halves", "skip", "one layer"],
)
def test_by_hand(model: nn.Module, shape: tuple[int, ...], wanted: int) -> None:
    graph = deepstruct.extract(model, torch.randn(shape))
    assert graph.num_parallel_edges == on_the_edge_list(graph) == wanted


def test_sums_of_what_reads_different_units() -> None:
    graph = deepstruct.extract(Twice(False), torch.randn(1, 6))
    assert graph.num_parallel_edges == on_the_edge_list(graph)


def test_a_residual_network_needs_no_edge_list() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x + self.second(torch.relu(self.first(x))))

    graph = deepstruct.extract(nn.Sequential(Block(), Block(), nn.Flatten(), nn.Linear(48, 2)), torch.randn(1, 3, 4, 4))
    assert count_parallel(graph, max_bytes=0) == on_the_edge_list(graph) == 0


def test_unknown_where_it_does_not_fit() -> None:
    graph = deepstruct.extract(Skip(), torch.randn(1, 2, 5, 5))
    assert count_parallel(graph, max_bytes=0) is None


def test_a_large_network_is_counted() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(50_000, 50_000), nn.ReLU(), nn.Linear(50_000, 50_000))
    graph = deepstruct.extract(model, torch.randn(1, 50_000, device="meta"))
    assert graph.num_edges == 5_000_000_000
    assert graph.num_parallel_edges == 0


@pytest.mark.parametrize("seed", range(25))
def test_sums_are_found_without_a_vector_over_the_slots(seed: int) -> None:
    graph = deepstruct.extract(*random_net(seed))
    asked = torch.randint(-1, graph.num_slots, (7, 9))
    found = graph.sums_of(asked), graph.sums_of(torch.arange(graph.num_slots))
    parent = torch.arange(graph.num_slots) if graph.parent is None else graph.parent
    assert torch.equal(found[0], torch.where(asked >= 0, parent[asked.clamp(min=0)], asked))
    assert torch.equal(found[1], parent)
    assert torch.equal(graph.sums_of(asked), found[0])  # with the vector at hand
