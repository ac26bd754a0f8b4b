"""Strength on data equals what the layers of the model bring, caught by hooks, and the sum over explicit edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine.signals import incoming_signal
from tests.random_nets import random_net

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def brought(model, batch):
    """Per module the mean over the batch of its output without its bias."""
    caught = {}

    def hook(name):
        def store(module, args, out):
            bias = 0 if module.bias is None else module.bias.view(-1, *[1] * (out.dim() - 2 if out.dim() > 2 else 0))
            plain = out - (module.bias if isinstance(module, nn.Linear) and module.bias is not None else bias)
            caught.setdefault(name, []).append(plain.detach().double())

        return store

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if isinstance(m, LAYERS)]
    with torch.no_grad():
        for sample in batch.split(1):
            model(sample)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(found).mean(0) for name, found in caught.items()}


@pytest.mark.parametrize("seed", range(40))
def test_layers_bring_what_hooks_catch(seed):
    model, example = random_net(seed)
    if not isinstance(example, torch.Tensor) or example.shape[0] != 1 or not example.is_floating_point():
        pytest.skip("not one sample of one tensor")
    batch = torch.randn(3, *example.shape[1:])
    graph = deepstruct.extract(model, example)
    slots, runs, left = incoming_signal(graph, [batch])
    assert runs == 3
    expected = brought(model, batch)
    total = torch.zeros(graph.num_slots, dtype=torch.float64)
    seen = 0
    for space in graph.spaces:
        if space.path in expected and space.kind == "contraction" and space.name not in left:
            values = expected[space.path]
            if values.numel() == space.numel:  # called once
                parts = torch.arange(space.offset, space.offset + space.numel)
                total.index_add_(0, graph.sums_of(parts), values.reshape(-1))
                seen += 1
    weights = sum(isinstance(m, LAYERS) for m in model.modules())
    if seen == weights and not left:
        nodes = graph.is_node
        assert torch.allclose(slots[nodes], total[nodes], rtol=1e-4, atol=1e-5)
    else:
        assert left or seen < weights


def test_the_sum_over_explicit_edges_of_weight_times_activation():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    batch = torch.randn(6, 4)
    report = deepstruct.analyze(
        model, torch.randn(1, 4), orders="zeroth", metrics=["activation_strength", "layer_activation_fluctuation",
        "layer_activation_strength_mean"], settings={"batch": batch},
    )  # fmt: skip
    assert not report.skipped
    hidden = model[1](model[0](batch))
    activation = torch.cat([batch, hidden, torch.zeros(6, 3)], 1).mean(0).tolist()
    edges = deepstruct.extract(model, torch.randn(1, 4)).edge_list()
    expected = np.zeros(12)
    for u, v, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True):
        expected[v] += w * activation[u]
    found = np.concatenate([v.reshape(-1) for v in report.nodes("zeroth", "activation_strength").values()])
    assert found == pytest.approx(expected, abs=1e-5)
    value = {row.name: row.value for row in report.rows}
    assert value["layer_activation_fluctuation"]["2"] == pytest.approx(expected[9:].std(), abs=1e-5)
    assert value["layer_activation_strength_mean"]["0"] == pytest.approx(expected[4:9].mean(), abs=1e-5)
    assert "tensor" in str(report.settings["settings"]["batch"])
    report.to_json()


@pytest.mark.parametrize(("batch", "message"), [
    (torch.zeros(3, 5), "the batch has shape"), ([torch.zeros(1, 4)] * 2, "holds 2 tensors"), ("data", "of type str"),
])  # fmt: skip
def test_what_does_not_fit_is_told(batch, message):
    report = deepstruct.analyze(
        nn.Linear(4, 2), torch.randn(1, 4), orders="zeroth", metrics=["activation_strength"], settings={"batch": batch}
    )
    [skipped] = report.skipped
    assert message in skipped.reason


def test_weights_that_were_cut_or_have_no_values_are_told():
    asked = {"orders": "zeroth", "metrics": ["activation_strength"]}
    [cut] = deepstruct.analyze(nn.Linear(4, 2), torch.randn(1, 4), threshold=0.1, **asked).skipped
    assert "threshold" in cut.reason
    with torch.device("meta"):
        model = nn.Linear(4, 2)
    [empty] = deepstruct.analyze(model, torch.randn(1, 4), **asked).skipped
    assert "no values" in empty.reason
