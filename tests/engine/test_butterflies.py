"""4-cycles through operators against sparse Gram matrices and networkx on the explicit graph."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator import motifs
from deepstruct.engine.blocks import graph_butterflies
from deepstruct.engine.butterflies import operator_butterflies
from deepstruct.errors import CapacityError
from deepstruct.structure.graph import StructureGraph
from tests.engine.spectra import dense, measure, small_graphs


def simple_count(matrix: np.ndarray) -> int:
    """From a symmetric 0/1 matrix."""
    shared = matrix @ matrix
    pairs = shared * (shared - 1) / 2
    return round((pairs.sum() - np.trace(pairs)) / 4)


def multi_count(matrix: np.ndarray) -> int:
    """Of a symmetric matrix of edge counts without a diagonal: by all choices of two middle nodes."""
    first, second = matrix @ matrix, (matrix**2) @ (matrix**2)
    pairs = (first**2 - second) / 2
    return round((pairs.sum() - np.trace(pairs)) / 4)


def brute(matrix: np.ndarray) -> int:
    """Every cycle u - a - w - b of four different nodes, edge by edge."""
    total = 0
    for u, w in itertools.combinations(range(len(matrix)), 2):
        for a, b in itertools.combinations([x for x in range(len(matrix)) if x not in (u, w)], 2):
            total += matrix[u, a] * matrix[a, w] * matrix[w, b] * matrix[b, u]
    return round(total / 2)


def test_known_network():
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0)
    graph = deepstruct.extract(net, torch.randn(1, 4))
    assert measure(graph, motifs, "butterflies").value == 45
    assert measure(graph, motifs, "butterflies_multigraph").value == 45
    within = measure(graph, motifs, "layer_butterflies").value
    assert list(within.values()) == [math.comb(4, 2) * math.comb(3, 2), math.comb(3, 2)]
    assert measure(graph, motifs, "butterflies_within_layers").value == 21 < 45


@pytest.mark.parametrize("chunk", range(6))
def test_whole_graph(chunk):
    for graph in small_graphs(range(chunk, 96, 6), 600):
        matrix = dense(graph)
        matrix = matrix + matrix.T
        assert measure(graph, motifs, "butterflies").value == simple_count((matrix > 0).astype(float))
        assert measure(graph, motifs, "butterflies_multigraph").value == multi_count(matrix)


@pytest.mark.parametrize("seed", range(12))
def test_cycles_loops_and_parallel_edges(seed):
    rng = np.random.default_rng(seed)
    multi = nx.MultiDiGraph()
    multi.add_nodes_from(range(7))
    multi.add_edges_from(rng.integers(0, 7, (22, 2)).tolist())
    graph = StructureGraph.from_networkx(multi)
    matrix = dense(graph)
    matrix = matrix + matrix.T
    np.fill_diagonal(matrix, 0)
    assert measure(graph, motifs, "butterflies").value == brute((matrix > 0).astype(float))
    assert measure(graph, motifs, "butterflies_multigraph").value == brute(matrix)


@pytest.mark.parametrize("order", ["first", "second", "third"])
def test_agrees_with_igraph_at_higher_orders(order):
    from deepstruct.analyzers.igraph import IgraphAnalyzer
    from deepstruct.metrics.base import AnalysisContext
    from deepstruct.metrics.clustering import butterflies_igraph

    for graph in small_graphs(range(24), 600):
        above = graph.quotient(order)
        view = IgraphAnalyzer().prepare(above, AnalysisContext())
        assert measure(above, motifs, "butterflies").value == butterflies_igraph(view)


def layer_count(op) -> tuple[int, nx.Graph]:
    """4-cycles of one operator from its edges."""
    edges = list(op.edges())
    source = np.concatenate([e.source.numpy() for e in edges]) if edges else np.zeros(0, int)
    target = np.concatenate([e.target.numpy() for e in edges]) if edges else np.zeros(0, int)
    matrix = np.zeros((op.source.numel, op.target.numel))
    matrix[source, target] = 1
    shared = matrix @ matrix.T
    pairs = shared * (shared - 1) / 2
    graph = nx.Graph(zip(source.tolist(), (target + op.source.numel).tolist(), strict=True))
    return round((pairs.sum() - np.trace(pairs)) / 2), graph


def convolutions():
    cases = [
        (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 6)), (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 6)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2), (4, 6, 5)), (nn.Conv1d(3, 2, 5, stride=3), (3, 17)),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5, 5)), (nn.ConvTranspose2d(3, 2, 3, stride=2), (3, 4, 3)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2, stride=2, padding=1), (4, 4, 4)), (nn.Conv3d(1, 2, 2), (1, 4, 3, 3)),
        (nn.Conv2d(5, 3, 1), (5, 3, 3)), (nn.Conv2d(1, 2, (1, 4), padding=(0, 3)), (1, 2, 6)),
        (nn.Linear(7, 5), (4, 7)), (nn.Conv2d(2, 8, 4, stride=4), (2, 8, 8)),
    ]  # fmt: skip
    return [pytest.param(layer, shape, id=f"{k}-{type(layer).__name__}") for k, (layer, shape) in enumerate(cases)]


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.15])
@pytest.mark.parametrize(("layer", "shape"), convolutions())
def test_within_an_operator(layer, shape, keep):
    torch.manual_seed(len(shape))
    with torch.no_grad():
        weight = torch.rand_like(layer.weight) + 0.1
        layer.weight.copy_(weight * (torch.rand_like(weight) < keep))
    graph = deepstruct.extract(layer, torch.randn(1, *shape))
    (op,) = [op for op in graph.operators if op.weighted]
    expected, explicit = layer_count(op)
    assert operator_butterflies(graph, op) == expected
    (clustering,) = measure(graph, motifs, "layer_bipartite_clustering").value.values()
    reference = nx.algorithms.bipartite.robins_alexander_clustering(explicit) if explicit.number_of_nodes() > 3 else 0
    assert clustering == pytest.approx(reference, abs=1e-12)


def test_random_nets_within_layers():
    counted = 0
    for graph in small_graphs(range(60), 500):
        for op in graph.operators:
            if op.weighted and (found := operator_butterflies(graph, op)) is not None:
                assert found == layer_count(op)[0]
                counted += 1
    assert counted > 60


def test_what_does_not_fit_is_refused_with_an_estimate():
    graph = deepstruct.extract(nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 40)), torch.randn(1, 60))
    with pytest.raises(CapacityError, match="multiplications, more than the limit"):
        measure(graph, motifs, "butterflies", max_operations=1000)
    with pytest.raises(CapacityError, match="max_memory"):
        graph_butterflies(graph, simple=True, max_memory=1000, max_operations=1e9)


def test_an_empty_graph_has_none():
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.zero_()
    assert measure(deepstruct.extract(layer, torch.randn(1, 2)), motifs, "butterflies").value == 0
