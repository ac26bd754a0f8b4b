"""Explicit edges of random nets, and plain recursions over them: what passes through operators are tested against."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import nn

import deepstruct
from tests.random_nets import random_net

# every attention score a unit with a slot of its own, where there is a choice
UNITS = {"attention": "units"} if "attention" in inspect.signature(deepstruct.extract).parameters else {}


@lru_cache(maxsize=4)
def net(seed: int) -> Any:
    """The zeroth-order graph of a random net of at most 3000 edges: the next one by seed that is small enough."""
    while True:
        graph = deepstruct.extract(*random_net(seed), **UNITS)
        if graph.num_edges <= 3000:
            return graph
        seed += 1000


class Small(nn.Module):
    """A few hundred edges: a pruned convolution with a skip, pooling and a linear head, and one dead channel."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.first, self.second, self.head):
                layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) < 0.5)
            self.second.weight[seed % 2] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        return self.head(self.pool(h + self.second(h)).flatten(1))


@lru_cache(maxsize=4)
def small(seed: int) -> Any:
    """The zeroth-order graph of a small net."""
    return deepstruct.extract(Small(seed).eval(), torch.randn(1, 1, 4, 4))


def neighbors(graph: Any) -> tuple[Any, list[list[tuple[int, float]]], list[int]]:
    """(edge list, per node the (target, weight) of its out-edges, a topological order)."""
    edges = graph.edge_list()
    after: list[list[tuple[int, float]]] = [[] for _ in range(edges.num_nodes)]
    for u, v, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True):
        after[u].append((v, w))
    return edges, after, list(nx.topological_sort(directed(graph)))


def directed(graph: Any) -> nx.DiGraph:
    edges = graph.edge_list()
    simple = nx.DiGraph()
    simple.add_nodes_from(range(edges.num_nodes))
    simple.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    return simple


def carried(
    graph: Any, start: dict[int, Any], zero: Any, along: Callable[[Any, float], Any], join: Callable[[Any, Any], Any]
) -> list[Any]:
    """Values of all nodes: `start`, joined with what the edges make of the values of earlier nodes."""
    edges, after, order = neighbors(graph)
    values = [start.get(node, zero) for node in range(edges.num_nodes)]
    for u in order:
        for v, w in after[u]:
            values[v] = join(values[v], along(values[u], w))
    return values


def slots_of(graph: Any, nodes: Any) -> Any:
    """Slots of node ids."""
    return graph.is_node.nonzero().reshape(-1)[np.asarray(nodes)]
