"""What metrics and operators owe whatever their definition: invariance to names, adjoints, conservation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext, Measured
from deepstruct.plugin.current import get_host
from tests.brute.explicit import SIDES
from tests.random_nets import random_net

# start from random vectors or nodes, which other names change; each has its own test
CHANCE = ("power_law", "spectral_moment", "density", "clusterability", "hyperball", "robustness_random",
          "robustness_edges_random", "diameter_")  # fmt: skip


class Chain(nn.Module):
    """Two convolutions and two linear layers, some weights gone, the hidden channels in a given order."""

    def __init__(self, seed: int, shuffled: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 2)]
        self.layers = nn.ModuleList([*convolutions, nn.Linear(12, 6), nn.Linear(6, 3)])
        generator = torch.Generator().manual_seed(seed)
        widths = (4, 3, 6)
        orders = [torch.randperm(n, generator=generator) for n in widths]
        with torch.no_grad():
            for layer in self.layers:
                w = layer.weight
                w.copy_(torch.randn(w.shape, generator=generator) * (torch.rand(w.shape, generator=generator) < 0.6))
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
            if shuffled:
                for k, order in enumerate(orders):
                    after = self.layers[k + 1].weight
                    self.layers[k].weight.copy_(self.layers[k].weight[order].clone())
                    self.layers[k].bias.copy_(self.layers[k].bias[order].clone())
                    blocks = after.unflatten(1, (widths[k], -1))  # four positions of a channel lie side by side
                    after.copy_(blocks[:, order].reshape(after.shape).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.layers[1](torch.relu(self.layers[0](x))))
        return self.layers[3](torch.relu(self.layers[2](h.flatten(1))))


def values(seed: int, shuffled: bool) -> dict[str, Any]:
    """Every metric, node vectors sorted and layers as they are; refusals as their absence."""
    graph = deepstruct.extract(Chain(seed, shuffled).eval(), torch.ones(1, 2, 3, 3))
    settings = {"samples": graph.num_nodes, "max_iterations": 1000, "tolerance": 1e-10}
    view = OperatorAnalyzer().prepare(graph, AnalysisContext(settings=settings))
    out = {}
    for metric in get_host().registry().metrics:
        if metric.analyzer != "operator" or any(part in metric.name for part in CHANCE):
            continue
        try:
            value = metric.compute(view)
        except (MetricError, MemoryError):
            continue
        value = value.value if isinstance(value, Measured) else value
        if metric.name == "layer_channel_path_centralities":
            value = {layer: sorted(json.loads(shares)) for layer, shares in value.items()}
        elif metric.name == "layer_weight_path_centrality_top":
            value = {layer: [weight["share"] for weight in json.loads(top)] for layer, top in value.items()}
        elif metric.name == "edge_path_centrality_top":
            value = [edge["share"] for edge in json.loads(value)]
        elif isinstance(value, str):
            value = json.loads(value)
        out[metric.name] = np.sort(value) if metric.scope == "node" else value
    return out


@pytest.mark.parametrize("seed", range(4))
def test_other_names_for_the_units_change_nothing(seed: int) -> None:
    first, second = values(seed, False), values(seed, True)
    assert first.keys() == second.keys()
    assert len(first) > 150
    for name, value in first.items():
        if isinstance(value, dict):
            assert value.keys() == second[name].keys(), name
            pairs = [(value[k], second[name][k]) for k in value]
        else:
            pairs = [(value, second[name])]
        for a, b in pairs:
            # ties in an order of removal are drawn by node number
            slack = 0.25 if name.startswith("robustness") else 1e-5
            np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=slack, atol=slack, err_msg=name)


@pytest.mark.parametrize("order", ["zeroth", "first", "second"])
def test_every_operator_of_random_nets_is_adjoint(order: str) -> None:
    """<A x, y> = <x, A' y>: exactly on whole numbers for the pattern, and in every other mode."""
    kinds = set()
    for seed in range(24):
        graph = deepstruct.extract(*random_net(seed, SIDES), order=order, attention="units")
        generator = torch.Generator().manual_seed(seed)
        for op in graph.operators:
            kinds.add(type(op).__name__)
            x, y = (
                torch.randint(-9, 10, side.shape, generator=generator).to(torch.float64)
                for side in (op.source, op.target)
            )
            assert float((op.forward(x) * y).sum()) == float((x * op.backward(y)).sum()), (seed, op.name)
            if op.weighted:
                for mode in ("abs", "square", "signed"):
                    left, right = (op.forward(x, mode) * y).sum(), (x * op.backward(y, mode)).sum()
                    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    assert kinds >= ({"Conv", "Matmul", "Identity"} if order == "zeroth" else {"Channels"})


@pytest.mark.parametrize("seed", range(20))
def test_what_flows_into_a_hidden_unit_flows_out(seed: int) -> None:
    """SynFlow's conservation: |w| dR/d|w|, summed over the edges into a hidden unit and over those out of it."""
    from tests.brute.explicit import Explicit

    e = Explicit(seed)
    ahead, back = np.array(e.from_inputs("abs"), float), np.array(e.onward("abs"), float)
    through = ahead[e.s] * e.value["abs"] * back[e.t]
    into, out_of = np.bincount(e.t, through, e.n), np.bincount(e.s, through, e.n)
    np.testing.assert_allclose(into[e.hidden], out_of[e.hidden], rtol=1e-9)
    view = OperatorAnalyzer().prepare(e.graph, AnalysisContext())
    metric = next(m for m in get_host().registry().metrics if m.name == "layer_synflow")
    weighted = through[e.weighted].sum()
    assert sum(metric.compute(view).values()) == pytest.approx(weighted, rel=1e-9, abs=1e-12)
