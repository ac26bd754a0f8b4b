"""Paths through edges and weights, against counts on the explicit edges."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine.edge_shares import EdgeShares
from deepstruct.errors import MetricError
from tests.engine.explicit import neighbors, net

SEEDS = range(30)


def counted(graph):
    """Per explicit edge (source, target) its share, from Python integers; parallel edges one by one."""
    edges, after, order = neighbors(graph)
    ahead, back = [0] * edges.num_nodes, [0] * edges.num_nodes
    for node in edges.inputs.tolist():
        ahead[node] = 1
    for node in edges.outputs.tolist():
        back[node] = 1
    for u in order:
        for v, _ in after[u]:
            ahead[v] += ahead[u]
    for u in reversed(order):
        back[u] += sum(back[v] for v, _ in after[u])
    total = sum(ahead[node] for node in edges.outputs.tolist())
    return [
        (u, v, Fraction(ahead[u] * back[v], total))
        for u, v in zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    ] if total else None  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_are_those_of_the_explicit_edges(seed):
    graph = net(seed)
    expected = counted(graph)
    if expected is None:
        with pytest.raises(MetricError, match="no path"):
            EdgeShares(graph)
        return
    names = ["edge_path_centrality_max", "edge_path_centrality_top", "layer_edge_path_centrality",
             "layer_edge_path_centrality_max"]  # fmt: skip
    report = deepstruct.analyze(graph, metrics=names, analyzer="operator", settings={"top": 7})
    assert not report.skipped
    value = {row.name: row.value for row in report.rows}
    assert value["edge_path_centrality_max"] == pytest.approx(float(max(s for _, _, s in expected)), rel=1e-12)
    assert sum(value["layer_edge_path_centrality"].values()) == pytest.approx(
        float(sum(s for _, _, s in expected)), rel=1e-12
    )
    top = json.loads(value["edge_path_centrality_top"])
    best = sorted((float(s) for _, _, s in expected if s), reverse=True)[:7]
    assert [edge["share"] for edge in top] == pytest.approx(best, rel=1e-12)
    shares = {}
    for u, v, share in expected:
        shares.setdefault((u, v), []).append(float(share))
    for edge in top:
        assert edge["share"] == pytest.approx(max(shares[edge["source"], edge["target"]]), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weight_has_the_shares_of_its_edges(seed):
    graph = net(seed)
    if counted(graph) is None:
        pytest.skip("no path from an input to an output")
    shares = EdgeShares(graph)
    for op in graph.operators:
        if not op.weighted or not op.source.numel:
            continue
        x, y = shares.ends(op)
        assert float(shares.by_weight(op).sum()) == pytest.approx(shares.total(op), rel=1e-9, abs=1e-300)
        explicit = torch.zeros(())
        for piece in op.edges():
            products = x.expand(op.source.shape).reshape(-1)[piece.source] * y.reshape(-1)[piece.target]
            explicit = explicit + products.sum()
        assert shares.total(op) == pytest.approx(float(explicit), rel=1e-9, abs=1e-300)


def test_a_known_network():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))  # x1-h1, x2-h1, x2-h2: three paths
    names = ["layer_weight_path_centrality_max", "layer_weight_path_centrality_top", "edge_path_centrality_max"]
    report = deepstruct.analyze(model, torch.randn(1, 2), orders="zeroth", metrics=names)
    value = {row.name: row.value for row in report.rows}
    assert value["edge_path_centrality_max"] == pytest.approx(2 / 3)
    assert value["layer_weight_path_centrality_max"] == pytest.approx({"0": 1 / 3, "2": 2 / 3})
    ranked = json.loads(value["layer_weight_path_centrality_top"]["2"])
    assert [row["weight"] for row in ranked] == [[0, 0], [1, 0]]
    assert [row["share"] for row in ranked] == pytest.approx([2 / 3, 1 / 3])


def test_deep_networks_neither_overflow_nor_vanish():
    model = nn.Sequential(nn.Linear(3, 40), *(nn.Linear(40, 40) for _ in range(300)), nn.Linear(40, 2))
    found = deepstruct.analyze(model.eval(), torch.randn(1, 3), orders="zeroth", metrics=["layer_edge_path_centrality"])
    sums = list(found.rows[0].value.values())
    assert sums == pytest.approx([0.0] + [1.0] * 302, rel=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_implicit_scores_have_the_sums_of_explicit_ones(causal):
    from tests.structure.attention_nets import build

    model, inputs = build("causal, fused" if causal else "transformer")
    told = [
        deepstruct.analyze(
            deepstruct.extract(model, inputs, attention=kind), metrics=["layer_edge_path_centrality"],
            analyzer="operator",
        ).rows[0].value
        for kind in ("implicit", "units")
    ]  # fmt: skip
    assert told[0].keys() == told[1].keys()
    assert np.allclose(list(told[0].values()), list(told[1].values()), rtol=1e-12)
