"""Spectra of layers: known graphs, dense singular values of the explicit layer, the authors' definitions in numpy."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
import deepstruct.engine.bipartite as bipartite
from deepstruct.analyzers.operator import ramanujan, stored, weightwatch
from deepstruct.analyzers.operator.layers import _space_of
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.engine.circular import circular_singular_values
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from tests.engine.spectra import measure, of_view, small_graphs


def _linear(mask: np.ndarray, weights: np.ndarray | None = None) -> deepstruct.structure.graph.StructureGraph:
    """The graph of one layer with the given (out, in) weights."""
    layer = nn.Linear(mask.shape[1], mask.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(mask if weights is None else mask * weights))
    return deepstruct.extract(layer, torch.randn(1, mask.shape[1]))


def _value(graph, name, **settings):
    module = weightwatch if any(m.name == name for m in weightwatch.METRICS) else ramanujan
    found = measure(graph, module, name, **settings).value
    return next(iter(found.values())) if isinstance(found, dict) else found


@pytest.mark.parametrize("prefix", ["", "kernel_"])
def test_heawood_graph(prefix):
    mask = np.zeros((7, 7))
    for i in range(7):
        mask[i, [(i + j) % 7 for j in (0, 1, 3)]] = 1
    graph = _linear(mask)
    expected = {"sigma1": 3.0, "sigma2": 1.414213562373, "ramanujan_r": 1.4142135623730951,
                "spectral_gap": 3 - 2**0.5, "ramanujan_s": 2**0.5, "imdb": 2**0.5, "imdb_normalized": 0.5,
                "imsg": 3 - 2**0.5, "weighted_gap": 3 - 2**0.5}  # fmt: skip
    for name, value in expected.items():
        assert _value(graph, f"layer_{prefix}{name}") == pytest.approx(value, rel=1e-9), name
        assert _value(graph, f"{prefix}{name}_mean") == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("prefix", ["", "kernel_"])
def test_two_separate_blocks(prefix):
    """2 K33: the largest singular value is double, and the graph is not Ramanujan."""
    mask = np.kron(np.eye(2), np.ones((3, 3)))
    graph = _linear(mask)
    assert _value(graph, f"layer_{prefix}ramanujan_r") == pytest.approx(-0.1715728752538097, rel=1e-9)
    assert _value(graph, f"layer_{prefix}spectral_gap") == pytest.approx(0, abs=1e-9)
    assert _value(graph, f"layer_{prefix}sigma2") == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("dense_side", [0, 1024])
def test_complete_graph(dense_side, monkeypatch):
    """Rank one: nothing is left beside the first singular value."""
    monkeypatch.setattr(bipartite, "DENSE_SIDE", dense_side)
    graph = _linear(np.ones((5, 8)))
    for prefix in ("", "kernel_"):
        assert _value(graph, f"layer_{prefix}sigma1") == pytest.approx(40**0.5)
        assert _value(graph, f"layer_{prefix}sigma2") == 0
        assert _value(graph, f"layer_{prefix}ramanujan_r") == pytest.approx(2 + 7**0.5)


def _explicit_layers(graph):
    """Per space a function mode -> dense (right, left) matrix from the edges of its weighted operators."""
    tables = defaultdict(list)
    view = OperatorAnalyzer().prepare(graph, AnalysisContext())
    for op in graph.operators:
        if not op.weighted:
            continue
        source, target = op.source.index().reshape(-1), op.target.index().reshape(-1)
        for piece in op.edges():
            s, t = source[piece.source], target[piece.target]
            keep = (s >= 0) & (t >= 0)
            if graph.live is not None:
                keep &= graph.live[s.clamp(min=0)] & graph.live[t.clamp(min=0)]
            tables[_space_of(view, op).name].append(
                np.stack([s[keep].numpy(), t[keep].numpy(), piece.weight[keep].abs().numpy()])
            )
    out = {}
    for name, rows in tables.items():
        s, t, w = np.concatenate(rows, 1)
        if len(s) == 0:
            continue
        left, right = (np.unique(x, return_inverse=True)[1] for x in (s, t))
        for mode, value in (("pattern", np.ones_like(w)), ("abs", w)):
            matrix = np.zeros((right.max() + 1, left.max() + 1))
            np.add.at(matrix, (right, left), value)
            out[name, mode] = matrix
    return out


def _sigma(matrix):
    values = np.append(np.linalg.svd(matrix, compute_uv=False), 0)
    return values[0], values[1]


def _classes(pattern, weighted):
    """(delta_r, bound, gap of |w|) per class, step by step as in the papers."""
    degree = pattern.sum(0).round()
    rows = []
    for d in sorted({x for x in degree if x >= 3}):
        part = pattern[:, degree == d]
        rights = part.sum(1)[part.sum(1) > 0]
        if rights.mean() < 3:
            continue
        bound = math.sqrt(d - 1) + math.sqrt(rights.mean() - 1)
        first, second = _sigma(weighted[:, degree == d])
        rows.append((bound - _sigma(part)[1], bound, first - second))
    return np.array(rows)


@pytest.mark.parametrize("chunk", range(6))
def test_layers_equal_dense_singular_values(chunk):
    compared = 0
    for graph in small_graphs(range(chunk, 24, 6), 400):
        view = OperatorAnalyzer().prepare(graph, AnalysisContext(settings={"max_iterations": 1000}))
        explicit = _explicit_layers(graph)
        found = {m.name: of_view(view, ramanujan, m.name) for m in ramanujan.METRICS
                 if m.scope == "layer" and "kernel" not in m.name}  # fmt: skip
        names = {name for name, _ in explicit}
        assert set(found["layer_sigma1"].value) == names
        for name in names:
            pattern, weighted = explicit[name, "pattern"], explicit[name, "abs"]
            first, second = _sigma(pattern)
            left, right = pattern.sum(0).mean(), pattern.sum(1).mean()
            expected = {
                "sigma1": first, "sigma2": second, "spectral_gap": first - second,
                "ramanujan_r": math.sqrt(max(left - 1, 0)) + math.sqrt(max(right - 1, 0)) - second,
                "ramanujan_s": 2 * math.sqrt(max(first - 1, 0)) - second,
            }  # fmt: skip
            if rows := _classes(pattern, weighted).tolist():
                table = np.array(rows)
                expected |= {"imdb": table[:, 0].mean(), "imdb_normalized": (table[:, 0] / table[:, 1]).mean()}
                assert found["layer_imsg"].value[name] == pytest.approx(table[:, 2].mean(), rel=1e-4, abs=1e-5)
            else:
                assert name not in found["layer_imdb"].value
            for key, value in expected.items():
                assert found[f"layer_{key}"].value[name] == pytest.approx(value, rel=1e-5, abs=2e-5), (name, key)
                compared += 1
            if name in found["layer_weighted_gap"].value:
                first, second = _sigma(weighted)
                assert found["layer_weighted_gap"].value[name] == pytest.approx(first - second, rel=1e-4, abs=1e-5)
        assert all(value.converged for value in found.values())
    assert compared > 30


def test_random_graph_bound():
    """NaRC by the published formula."""
    rng = np.random.default_rng(3)
    mask = (rng.random((9, 12)) < 0.3).astype(float)
    mask[4], mask[:, 7] = 0, 0
    left, right = (mask.sum(0) > 0).sum(), (mask.sum(1) > 0).sum()
    mean_left = mask.sum() / left
    spread = (_sigma(mask)[1] ** 2 / 4 + 1) * math.sqrt(left * right)
    expected = (spread - abs(mask.sum() - mean_left / 9 * left * right)) / (12 * 9)
    for prefix in ("", "kernel_"):
        assert _value(_linear(mask), f"layer_{prefix}narc") == pytest.approx(expected, rel=1e-9)


def test_stored_matrices():
    """Kernels are (out, in * taps), transposed ones too; recurrent weights side by side."""
    conv, up = nn.Conv2d(2, 3, 3, padding=1), nn.ConvTranspose2d(3, 4, 2)
    net = nn.Sequential(conv, nn.ReLU(), up)
    graph = deepstruct.extract(net, torch.randn(1, 2, 5, 5))
    view = OperatorAnalyzer().prepare(graph, AnalysisContext())
    first, second = (layer("signed").matrix for layer in stored.kernels(view).values())
    assert torch.allclose(first, conv.weight.detach().double().reshape(3, 18))
    assert torch.allclose(second, up.weight.detach().double().transpose(0, 1).reshape(4, 12))
    cell = nn.RNN(2, 3, batch_first=True)
    view = OperatorAnalyzer().prepare(deepstruct.extract(cell, torch.randn(1, 4, 2)), AnalysisContext())
    shapes = {tuple(layer("signed").matrix.shape) for layer in stored.kernels(view).values()}
    assert max(shapes) == (3, 5) or (3, 3) in shapes


def test_stable_rank_norms_and_alpha():
    powerlaw = pytest.importorskip("powerlaw")
    torch.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 9, 50))
    graph = deepstruct.extract(net, torch.randn(1, 3, 5, 5))
    matrices = [net[0].weight.detach().double().reshape(40, 27), net[3].weight.detach().double()]
    found = {m.name: measure(graph, weightwatch, m.name).value for m in weightwatch.METRICS}
    for k, matrix in enumerate(matrices):
        values = torch.linalg.svdvals(matrix).square()
        fit = powerlaw.Fit(values.tolist(), verbose=False, parameter_ranges={"alpha": [1, 1000]})
        expected = {
            "stable_rank": float(values.sum() / values[0]),
            "log10_frobenius_norm": math.log10(float(matrix.norm())),
            "log10_spectral_norm": math.log10(float(torch.linalg.matrix_norm(matrix, 2))),
            "alpha": fit.power_law.alpha,
            "alpha_hat": fit.power_law.alpha * math.log10(float(values[0])),
        }
        for name, value in expected.items():
            assert list(found[f"layer_{name}"].values())[k] == pytest.approx(value, rel=1e-6), name
    for name in ("stable_rank", "alpha"):
        assert found[f"{name}_mean"] == pytest.approx(np.mean(list(found[f"layer_{name}"].values())))


@pytest.mark.parametrize(
    ("size", "taps", "dilation"), [((5, 4), (3, 3), (1, 1)), ((6,), (3,), (2,)), ((2, 3), (3, 1), (1, 2))]
)
def test_circular_convolutions(size, taps, dilation):
    """Against the matrix of the map x -> kernel * x on the torus."""
    kernel = torch.randn(2, 3, *taps, dtype=torch.float64)
    n = math.prod(size)
    matrix = np.zeros((2, n, 3, n))
    for out in np.ndindex(*size):
        for tap in np.ndindex(*taps):
            here = tuple((o + t * d) % s for o, t, d, s in zip(out, tap, dilation, size, strict=True))
            block = kernel[(..., *tap)].numpy()
            matrix[:, np.ravel_multi_index(out, size), :, np.ravel_multi_index(here, size)] += block
    expected = np.linalg.svd(matrix.reshape(2 * n, 3 * n), compute_uv=False)
    assert np.allclose(circular_singular_values(kernel, size, dilation).numpy(), expected, atol=1e-10)


def test_circular_metrics_and_overlap():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        conv.weight[0, 0, 1, 1] = 0
        conv.weight[1, 0, 2] = 0
        conv.weight[:, 1, 0, 0] = 0
    graph = deepstruct.extract(conv, torch.randn(1, 2, 6, 6))
    values = circular_singular_values(conv.weight.detach(), (6, 6), (1, 1))
    assert _value(graph, "layer_circular_spectral_norm") == pytest.approx(float(values[0]), rel=1e-6)
    assert _value(graph, "layer_circular_stable_rank") == pytest.approx(float(values.norm() / values[0]) ** 2, rel=1e-6)
    assert _value(graph, "layer_channel_overlap") == pytest.approx(1 / 2)  # channel 1 has a tap without outputs
    assert _value(graph, "layer_expansion_ratio") == pytest.approx(3 / 17)
    assert _value(deepstruct.extract(nn.Conv2d(2, 3, 3, stride=2), torch.randn(1, 2, 7, 7)), "layer_stable_rank") > 1
    strided = deepstruct.extract(nn.Conv2d(2, 3, 3, stride=2), torch.randn(1, 2, 7, 7))
    assert measure(strided, weightwatch, "layer_circular_spectral_norm").value == {}
    with pytest.raises(MetricError, match="not defined in any layer"):
        measure(strided, weightwatch, "circular_spectral_norm_mean")


def test_classes_beyond_the_limit_are_named():
    mask = np.repeat(np.tril(np.ones((12, 12))), 4, axis=1)  # degrees 1 to 12, four columns each
    found = measure(_linear(mask), ramanujan, "layer_imdb")
    assert len(found.value) == 1
    with pytest.raises(MetricError, match="max_degree_classes"):
        measure(_linear(mask), ramanujan, "layer_imdb", max_degree_classes=3)


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        layer = nn.Linear(4, 3)
    graph = deepstruct.extract(layer, torch.randn(1, 4, device="meta"))
    with pytest.raises(MetricError, match="meta"):
        measure(graph, weightwatch, "layer_stable_rank")
    assert _value(graph, "layer_sigma1") == pytest.approx(12**0.5)
