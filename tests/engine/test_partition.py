"""Sums over partitions, and spectral clusters, against networkx and numpy on the explicit multigraph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator import partition
from deepstruct.analyzers.select import analyze_graph
from deepstruct.engine.clusters import spectral_clusters
from deepstruct.engine.partition import group_sums
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.metrics.partition import node_labels
from deepstruct.plugin.current import get_host
from deepstruct.structure.graph import StructureGraph
from tests.engine.spectra import dense, measure, small_graphs


def check(graph, labels, **settings):
    matrix = dense(graph)
    matrix = matrix + matrix.T
    volume = np.bincount(labels, matrix.sum(1))
    inside = np.array([matrix[np.ix_(labels == c, labels == c)].sum() / 2 for c in range(labels.max() + 1)])
    m = volume.sum() / 2
    used = volume > 0
    expected = {
        "modularity_of_partition": (inside / m - (volume / (2 * m)) ** 2).sum(),
        "coverage_of_partition": inside.sum() / m,
        "normalized_cut_of_partition": ((volume - 2 * inside)[used] / volume[used]).sum(),
    }
    for name, value in expected.items():
        assert measure(graph, partition, name, **settings).value == pytest.approx(value, abs=1e-9), name
    return expected


@pytest.mark.parametrize("chunk", range(6))
def test_given_partitions(chunk):
    rng = np.random.default_rng(chunk)
    for graph in small_graphs(range(chunk, 24, 6), 400):
        for kind in ("layer", "module", "channel"):
            check(graph, node_labels(graph, {"partition": kind}), partition=kind)
        labels = rng.integers(0, 5, graph.num_nodes)
        labels = np.unique(labels, return_inverse=True)[1]
        expected = check(graph, labels, partition=labels)
        edges = graph.edge_list()
        multi = nx.MultiGraph()
        multi.add_nodes_from(range(graph.num_nodes))
        multi.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
        groups = [set(np.flatnonzero(labels == c).tolist()) for c in range(labels.max() + 1)]
        reference = nx.community.modularity(multi, groups, weight=None)
        assert expected["modularity_of_partition"] == pytest.approx(reference, abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_three_analyzers_agree(seed):
    """With cycles, self-loops and parallel edges."""
    rng = np.random.default_rng(seed)
    multi = nx.MultiDiGraph()
    multi.add_nodes_from(range(10))
    multi.add_edges_from(rng.integers(0, 10, (25, 2)).tolist())
    graph = StructureGraph.from_networkx(multi)
    context = AnalysisContext(settings={"partition": rng.integers(0, 3, 10).tolist()})
    registry = get_host().registry()
    values = [
        analyze_graph(graph, ["modularity_of_partition"], name, context, registry=registry)[0][0].value
        for name in ("operator", "igraph", "networkx")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert values[0] == pytest.approx(values[2], abs=1e-12)


def test_two_blocks():
    """2 K33: modularity 1/2, nothing is cut."""
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)))
    graph = deepstruct.extract(layer, torch.randn(1, 6))
    labels = [0, 0, 0, 1, 1, 1] * 2
    assert measure(graph, partition, "modularity_of_partition", partition=labels).value == pytest.approx(0.5)
    assert measure(graph, partition, "normalized_cut_of_partition", partition=labels).value == pytest.approx(0)
    assert measure(graph, partition, "clusterability", clusters=2).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("mode", ["abs", "square"])
def test_weighted_sums(mode):
    for graph in small_graphs(range(15), 300):
        edges = graph.edge_list()
        weight = np.nan_to_num(np.abs(edges.weight)) ** (2 if mode == "square" else 1)
        labels = torch.arange(graph.num_slots) % 3
        at = graph.slots_to_nodes(labels)
        same = at[edges.source] == at[edges.target]
        sums = group_sums(graph, labels, mode=mode, structural=False)
        inside = np.bincount(at[edges.source[same]], weight[same], 3)
        assert np.allclose(sums.inside.numpy(), inside, rtol=1e-6)
        volume = np.bincount(at[edges.source], weight, 3) + np.bincount(at[edges.target], weight, 3)
        assert np.allclose(sums.volume.numpy(), volume, rtol=1e-6)


def planted(groups: int, width: int, noise: float) -> nn.Module:
    """A network of separate strands that weak weights join."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layer = nn.Linear(groups * width, groups * width, bias=False)
        with torch.no_grad():
            strong = torch.block_diag(*[torch.rand(width, width) + 0.5 for _ in range(groups)])
            layer.weight.copy_(strong + noise * torch.rand_like(strong))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("order", ["zeroth", "first"])
@pytest.mark.parametrize("width", [4, 20])
def test_planted_clusters_are_found(order, width):
    graph = deepstruct.extract(planted(4, width, 0.01), torch.randn(1, 4 * width))
    graph = graph if order == "zeroth" else graph.quotient(order)
    found = spectral_clusters(graph, 4, structural=False)
    assert found.converged
    labels = graph.slots_to_nodes(found.labels)
    truth = np.tile(np.repeat(np.arange(4), width), 4)
    assert len({(a, b) for a, b in zip(labels.tolist(), truth.tolist(), strict=True)}) == 4
    matrix = dense(graph, "abs")
    matrix = matrix + matrix.T
    volume = np.bincount(truth, matrix.sum(1))
    inside = [matrix[np.ix_(truth == c, truth == c)].sum() for c in range(4)]
    expected = float((1 - inside / volume).sum())
    assert measure(graph, partition, "clusterability", clusters=4).value == pytest.approx(expected, rel=1e-6)


def test_clusterability_is_no_less_than_its_bound():
    """The cut of any k groups is at least k less the k largest eigenvalues."""
    for graph in small_graphs(range(12), 200):
        edges = graph.edge_list()
        own = ~np.isnan(edges.weight)
        matrix = np.zeros((graph.num_nodes,) * 2)
        np.add.at(matrix, (edges.source[own], edges.target[own]), np.abs(edges.weight[own]))
        matrix = matrix + matrix.T
        keep = matrix.sum(1) > 0
        matrix = matrix[np.ix_(keep, keep)]
        if len(matrix) < 6:
            continue
        root = matrix.sum(1) ** -0.5
        bound = 3 - np.linalg.eigvalsh(matrix * np.outer(root, root))[-3:].sum()
        value = measure(graph, partition, "clusterability", clusters=3).value
        assert bound - 1e-6 <= value <= 3


def test_refusals():
    graph = deepstruct.extract(nn.Linear(3, 2), torch.randn(1, 3))
    for settings, text in (
        ({"partition": "color"}, "choose from"), ({"partition": [0, 1]}, "each of the 5 nodes"),
        ({"partition": [0.5] * 5}, "whole number"),
    ):  # fmt: skip
        with pytest.raises(MetricError, match=text):
            measure(graph, partition, "modularity_of_partition", **settings)
    with pytest.raises(MetricError, match="fewer than 14"):
        measure(graph, partition, "clusterability")
    big = deepstruct.extract(nn.Linear(300, 200), torch.randn(1, 300))
    metric = next(m for m in partition.METRICS if m.name == "clusterability")
    from deepstruct.analyzers.operator.view import OperatorView

    with pytest.raises(CapacityError, match="max_memory"):
        metric.compute(OperatorView(big, AnalysisContext(max_memory=1000)))
