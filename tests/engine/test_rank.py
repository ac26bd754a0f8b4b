"""Centralities through operators against networkx and dense eigenvectors on the explicit multigraph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

import deepstruct
from deepstruct.analyzers.operator import rank
from deepstruct.analyzers.select import analyze_graph
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.plugin.current import get_host
from deepstruct.structure.graph import StructureGraph
from tests.engine.spectra import dense, measure, small_graphs


def multigraph(graph):
    edges = graph.edge_list()
    out = nx.MultiDiGraph()
    out.add_nodes_from(range(edges.num_nodes))
    out.add_edges_from(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    return out


def projected_on_top(matrix: np.ndarray) -> np.ndarray:
    """The part of the all-ones vector in the eigenspace of the largest eigenvalue, of length 1."""
    values, vectors = np.linalg.eigh(matrix)
    top = vectors[:, values > values[-1] * (1 - 1e-9)]
    part = top @ (top.T @ np.ones(len(matrix)))
    return part / np.linalg.norm(part)


@pytest.mark.parametrize("chunk", range(6))
def test_katz_and_pagerank(chunk):
    for graph in small_graphs(range(chunk, 18, 6)):
        found = measure(graph, rank, "pagerank")
        reference = nx.pagerank(multigraph(graph), weight=None, tol=1e-14, max_iter=2000)
        assert np.allclose(found.value, [reference[v] for v in range(graph.num_nodes)], rtol=1e-8, atol=1e-12)
        assert found.exact
        other = measure(graph, rank, "pagerank", pagerank_damping=0.5).value
        reference = nx.pagerank(multigraph(graph), 0.5, weight=None, tol=1e-14, max_iter=2000)
        assert np.allclose(other, [reference[v] for v in range(graph.num_nodes)], rtol=1e-8, atol=1e-12)
        matrix = dense(graph)
        for settings in ({}, {"katz_alpha": 0.05}):
            found = measure(graph, rank, "katz", **settings)
            alpha = settings.get("katz_alpha") or 0.9 / np.linalg.eigvalsh(matrix + matrix.T)[-1]
            expected = np.linalg.solve(np.eye(len(matrix)) - alpha * matrix.T, np.ones(len(matrix)))
            assert np.allclose(found.value, expected / np.linalg.norm(expected), rtol=1e-5)
            assert found.converged


@pytest.mark.parametrize("chunk", range(6))
def test_eigenvectors(chunk):
    for graph in small_graphs(range(chunk, 18, 6)):
        matrix = dense(graph)
        found = measure(graph, rank, "eigenvector_centrality", tolerance=1e-9)
        assert found.converged
        assert np.allclose(found.value, projected_on_top(matrix + matrix.T), atol=1e-4)
        hub, authority = (measure(graph, rank, name, tolerance=1e-9) for name in ("hub", "authority"))
        expected = projected_on_top(matrix @ matrix.T)
        assert np.allclose(hub.value, expected / expected.sum(), atol=1e-4)
        expected = matrix.T @ expected
        assert np.allclose(authority.value, expected / expected.sum(), atol=1e-4)


def test_known_values():
    """A star into a chain, by hand; and networkx's own HITS and Katz."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    graph = deepstruct.extract(net, torch.randn(1, 4))
    assert measure(graph, rank, "hub").value == pytest.approx([0.25] * 4 + [0, 0], abs=1e-9)
    assert measure(graph, rank, "authority").value == pytest.approx([0] * 4 + [1, 0], abs=1e-9)
    katz = measure(graph, rank, "katz", katz_alpha=0.1).value
    reference = nx.katz_centrality(nx.DiGraph(multigraph(graph)), alpha=0.1, tol=1e-12)
    assert katz == pytest.approx([reference[v] for v in range(6)], rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_graphs_with_cycles(seed):
    """Parallel edges, self-loops, cycles: iteration instead of one pass."""
    rng = np.random.default_rng(seed)
    n = 12
    multi = nx.MultiDiGraph()
    multi.add_nodes_from(range(n))
    multi.add_edges_from(rng.integers(0, n, (30, 2)).tolist())
    graph = StructureGraph.from_networkx(multi)
    explicit = multigraph(graph)
    found = measure(graph, rank, "pagerank", tolerance=1e-10)
    reference = nx.pagerank(explicit, weight=None, tol=1e-14, max_iter=2000)
    assert np.allclose(found.value, [reference[v] for v in range(n)], rtol=1e-8, atol=1e-12)
    matrix = dense(graph)
    alpha = 0.5 / np.abs(np.linalg.eigvals(matrix)).max() if np.abs(np.linalg.eigvals(matrix)).max() > 1e-6 else 0.1
    katz = measure(graph, rank, "katz", katz_alpha=float(alpha), tolerance=1e-9)
    expected = np.linalg.solve(np.eye(n) - alpha * matrix.T, np.ones(n))
    assert np.allclose(katz.value, expected / np.linalg.norm(expected), rtol=1e-6)


def test_refusals():
    (graph,) = small_graphs([1]) or small_graphs([2])
    with pytest.raises(MetricError, match="pagerank_damping"):
        measure(graph, rank, "pagerank", pagerank_damping=1.5)
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.zero_()
    with pytest.raises(MetricError, match="no edges"):
        measure(deepstruct.extract(layer, torch.randn(1, 2)), rank, "hub")


@pytest.mark.parametrize("seed", range(10))
def test_pagerank_of_three_analyzers(seed):
    rng = np.random.default_rng(seed)
    multi = nx.MultiDiGraph()
    multi.add_nodes_from(range(10))
    multi.add_edges_from(rng.integers(0, 10, (18, 2)).tolist())
    graph = StructureGraph.from_networkx(multi)
    context = AnalysisContext(settings={"pagerank_damping": 0.7, "tolerance": 1e-10})
    registry = get_host().registry()
    operator, igraph, networkx = (
        analyze_graph(graph, ["pagerank"], name, context, registry=registry)[0][0].value
        for name in ("operator", "igraph", "networkx")
    )
    assert np.allclose(operator, igraph, rtol=1e-9, atol=1e-10)
    assert np.allclose(operator, networkx, rtol=1e-9, atol=1e-10)
