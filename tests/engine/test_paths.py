"""Flows along paths: shares, lengths, entropies; against explicit recursions, and where float64 alone would fail."""

from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine import entropy, flow, lengths, passes
from deepstruct.errors import MetricError
from tests.engine.explicit import carried, neighbors, net

SEEDS = range(40)


def _paths_by_length(graph):
    edges, after, order = neighbors(graph)
    found = [{} for _ in range(edges.num_nodes)]
    for node in edges.inputs.tolist():
        found[node][0] = 1
    for u in order:
        for v, _ in after[u]:
            for length, count in found[u].items():
                found[v][length + 1] = found[v].get(length + 1, 0) + count
    total = {}
    for node in edges.outputs.tolist():
        for length, count in found[node].items():
            total[length] = total.get(length, 0) + count
    return dict(sorted(total.items())), [sum(f.values()) for f in found]


def _onward(graph, value=lambda w: 1):
    edges, after, order = neighbors(graph)
    outputs = set(edges.outputs.tolist())
    onward = [int(node in outputs) for node in range(edges.num_nodes)]
    for u in reversed(order):
        onward[u] += sum(value(w) * onward[v] for v, w in after[u])
    return onward


@pytest.mark.parametrize("seed", SEEDS)
def test_shares_and_lengths(seed, monkeypatch):
    graph = net(seed)
    by_length, ahead = _paths_by_length(graph)
    total = sum(by_length.values())
    assert lengths.length_counts(graph) == by_length
    if total == 0:
        for compute in (flow.path_shares, lengths.length_shares, lengths.length_moments, entropy.path_entropy):
            with pytest.raises(MetricError, match="no path"):
                compute(graph)
        return
    onward = _onward(graph)
    share = graph.slots_to_nodes(flow.path_shares(graph))
    assert np.allclose(share, [a * b / total for a, b in zip(ahead, onward, strict=True)], rtol=1e-12)
    mean = sum(k * n for k, n in by_length.items()) / total
    assert share.sum() == pytest.approx(mean + 1)  # a path has one node more than it has edges
    variance = float(Fraction(sum(k * k * n for k, n in by_length.items()), total) - Fraction(mean) ** 2)
    assert lengths.length_moments(graph) == pytest.approx((mean, variance), rel=1e-9, abs=1e-9)
    shares = lengths.length_shares(graph)
    assert list(shares) == list(by_length)
    assert list(shares.values()) == pytest.approx([n / total for n in by_length.values()], rel=1e-12)
    assert entropy.path_entropy(graph) == pytest.approx(math.log(total), abs=1e-12)
    monkeypatch.setattr(lengths, "_EXACT", 1.0)  # as if the counts were beyond float64
    assert lengths.length_counts(graph) == by_length


@pytest.mark.parametrize("seed", SEEDS)
def test_entropy_of_choices_and_of_paths(seed):
    graph = net(seed)
    edges, after, _ = neighbors(graph)
    outputs = set(edges.outputs.tolist())
    for mode, value in (("pattern", lambda w: 1.0), ("abs", lambda w: 1.0 if math.isnan(w) else abs(w))):
        onward = _onward(graph, value)
        expected = []
        for node in range(edges.num_nodes):
            ways = [value(w) * onward[v] for v, w in after[node] if onward[v]] + [1.0] * (node in outputs)
            ways = [way / onward[node] for way in ways]
            expected.append(-sum(p * math.log(p) for p in ways) if ways else math.nan)
        found = entropy.choice_entropy(graph, mode)
        assert np.allclose(graph.slots_to_nodes(found), expected, rtol=1e-9, atol=1e-9, equal_nan=True)
        if not any(onward[node] for node in edges.inputs.tolist()):
            continue
        # chain rule: the entropy of the whole is that of the start and, at every unit that a path meets, of its choice
        amounts = np.array([onward[node] for node in edges.inputs.tolist()])
        begin = amounts[amounts > 0] / amounts.sum()
        share = flow.path_shares(graph, mode)
        whole = -float(begin @ np.log(begin)) + float((share * torch.nan_to_num(found))[graph.is_node].sum())
        assert entropy.path_entropy(graph, mode) == pytest.approx(whole, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_entropy_of_weighted_paths_one_by_one(seed):
    """Sums of p log p over the paths, by a recursion over the explicit edges."""
    graph = net(seed)
    edges = graph.edge_list()

    def along(x, w):
        w = 1.0 if math.isnan(w) else abs(w)
        return w * x[0], w * x[1] + (w * math.log(w) * x[0] if w else 0.0)

    ends = carried(
        graph, dict.fromkeys(edges.inputs.tolist(), (1.0, 0.0)), (0.0, 0.0), along,
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
    )  # fmt: skip
    z, r = (sum(ends[node][k] for node in edges.outputs.tolist()) for k in (0, 1))
    if z == 0:
        pytest.skip("no path from an input to an output")
    assert entropy.path_entropy(graph, "abs") == pytest.approx(math.log(z) - r / z, rel=1e-8, abs=1e-8)
    assert flow.log_total(graph, "abs") == pytest.approx(math.log(z), rel=1e-9, abs=1e-9)


def test_all_paths_of_a_known_network():
    net_ = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net_[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        net_[2].weight.copy_(torch.tensor([[2.0, -1.0]]))
    names = [
        "path_norm_log10", "path_norm_squared_log10", "weighted_path_entropy", "weighted_shortest_path",
        "weighted_longest_path", "strongest_path_log10", "weakest_path_log10", "widest_path",
        "weighted_path_centrality", "path_length_counts", "path_length_distribution", "path_centrality",
        "layer_path_centrality",
    ]  # fmt: skip
    report = deepstruct.analyze(net_, torch.randn(1, 2), orders="zeroth", metrics=names)
    assert not report.skipped
    value = report["zeroth"]
    paths = {"a": (1.0, 2.0), "b": (2.0, 2.0), "c": (3.0, 1.0)}  # |w| along x1-h1-y, x2-h1-y, x2-h2-y
    products = [a * b for a, b in paths.values()]
    assert value["path_norm_log10"] == pytest.approx(math.log10(9))
    assert value["path_norm_squared_log10"] == pytest.approx(math.log10(29))
    assert value["weighted_path_entropy"] == pytest.approx(-sum(p / 9 * math.log(p / 9) for p in products))
    assert value["weighted_shortest_path"] == 3.0
    assert value["weighted_longest_path"] == 4.0
    assert value["strongest_path_log10"] == pytest.approx(math.log10(4))
    assert value["weakest_path_log10"] == pytest.approx(math.log10(2))
    assert value["widest_path"] == 2.0
    assert json.loads(value["path_length_counts"]) == {"2": 3}
    assert json.loads(value["path_length_distribution"]) == {"2": 1.0}
    for name, shares in (
        ("path_centrality", [1 / 3, 2 / 3, 2 / 3, 1 / 3, 1.0]),
        ("weighted_path_centrality", [2 / 9, 7 / 9, 6 / 9, 3 / 9, 1.0]),
    ):
        found = np.concatenate([v.reshape(-1) for v in report.nodes("zeroth", name).values()])
        assert found == pytest.approx(shares)
    assert [row["path_centrality"] for row in report.layers("zeroth")] == pytest.approx([1.0, 1.0, 1.0])


class Skips(nn.Module):
    """A deep stack in which every layer may be skipped."""

    def __init__(self, width, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(x + torch.relu(layer(x)))
        return x


def _skips(width, depth):
    """The graph, and the number of its paths of each length."""
    model = Skips(width, depth)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1e-3)
    # a layer is left by its skip (one edge) or through a weight (an edge to any unit, and one into the sum)
    count = {depth + k: width * math.comb(depth, k) * width**k for k in range(depth + 1)}
    return deepstruct.extract(model, torch.randn(1, width)), count


def test_lengths_of_a_deep_network_are_binomial():
    graph, count = _skips(6, 24)
    total = sum(count.values())
    assert total > 2**60
    assert lengths.length_counts(graph) == count
    assert lengths.length_shares(graph) == pytest.approx({k: n / total for k, n in count.items()}, rel=1e-12)


def test_deep_networks_neither_overflow_nor_vanish():
    """More than 10**330 paths, and path norms down to 10**-900."""
    width, depth = 6, 400
    graph, count = _skips(width, depth)
    total = sum(count.values())
    assert total > 10**330
    mean, variance = lengths.length_moments(graph)
    p = width / (width + 1)
    assert (mean, variance) == pytest.approx((depth * (1 + p), depth * p * (1 - p)), rel=1e-9)
    assert flow.log_total(graph) == pytest.approx(math.log(total), rel=1e-12)
    share = flow.path_shares(graph)
    for space in (graph.spaces[0], graph.spaces[len(graph.spaces) // 2], graph.spaces[-1]):
        assert 0 < float(share[space.slots].min()) <= 1 / width * (1 + 1e-9)
    assert share[graph.spaces[0].slots].tolist() == pytest.approx([1 / width] * width)
    assert float(share[graph.is_node].sum()) == pytest.approx(mean + 1)
    assert passes.paths_from_sources(graph).max() == math.inf  # what plain float64 makes of it


def test_small_weights_do_not_vanish():
    width, depth = 6, 300
    shrinking = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(depth)])
    with torch.no_grad():
        for p in shrinking.parameters():
            p.fill_(1e-4)
    graph = deepstruct.extract(shrinking, torch.randn(1, width))
    expected = math.log(width) + depth * math.log(width * 1e-4)
    assert expected < -2000
    assert flow.log_total(graph, "abs") == pytest.approx(expected, rel=1e-6)
    assert flow.log_total(graph, "square") == pytest.approx(math.log(width) + depth * math.log(width * 1e-8), rel=1e-6)
    uniform = flow.path_shares(graph, "abs")
    assert graph.slots_to_nodes(uniform) == pytest.approx(np.full(graph.num_nodes, 1 / width))
    assert entropy.path_entropy(graph, "abs") == pytest.approx((depth + 1) * math.log(width), rel=1e-6)
    assert passes.path_norm(graph, "abs") == 0.0  # what plain float64 makes of it


def test_exact_lengths_need_many_primes():
    widths = [3, *([97] * 40), 2]
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    graph = deepstruct.extract(nn.Sequential(*layers), torch.randn(1, 3))
    assert lengths.length_counts(graph) == {41: math.prod(widths)}


@pytest.mark.parametrize("seed", range(6))
def test_every_cut_carries_all_paths(seed):
    """The nodes at one longest distance from the inputs, with edges across, are a cut of a layered net."""
    widths = [3, 5, 4, 6, 2]
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(torch.rand_like(layer.weight) < 0.6)
    graph = deepstruct.extract(nn.Sequential(*layers), torch.randn(1, 3))
    if passes.path_count(graph) == 0:
        pytest.skip("no path is left")
    for mode in ("pattern", "abs", "square"):
        share = flow.path_shares(graph, mode)
        assert [float(share[s.slots].sum()) for s in graph.spaces] == pytest.approx([1.0] * len(widths))
