"""Layers of the real torchao package, against float layers with the same weights and the Jacobian of those."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.plugin import Host, use_host
from deepstruct.testing import check_equality, check_plugin

pytest.importorskip("torchao", reason="torchao is not installed")

from deepstruct_quant import plugin
from deepstruct_quant.rules import is_quantised
from torchao import quantization
from torchao.quantization import quantize_

X = torch.linspace(-1, 1, 64).reshape(1, 64)
CONFIGS = {
    "int8-weights": lambda: quantization.Int8WeightOnlyConfig(),
    "int8-weights-and-activations": lambda: quantization.Int8DynamicActivationInt8WeightConfig(),
    "int4-weights": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4),
    "int2-weights": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int2),
    "int4-weights-int8-activations": lambda: quantization.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4
    ),
    "float8-weights": lambda: quantization.Float8WeightOnlyConfig(),
}
BITS = {"int8": 8, "int4": 4, "int2": 2, "float8": 8}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8)).eval()


def quantised(name: str) -> nn.Sequential:
    model = net()
    quantize_(model, CONFIGS[name]())
    return model


def float_twin(model: nn.Sequential) -> nn.Sequential:
    """A float model with the weights that the codes stand for."""
    twin = net()
    with torch.no_grad():
        for mine, theirs in zip(twin, model, strict=True):
            if isinstance(mine, nn.Linear):
                mine.weight.copy_(theirs.weight.dequantize())
                mine.bias.copy_(theirs.bias)
    return twin


@pytest.fixture(autouse=True)
def host():
    with use_host(Host([("quant", plugin)], entry_points=False)) as host, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield host
        assert host.record("quant").state == "ok", host.record("quant").error


@pytest.mark.parametrize("name", CONFIGS)
def test_a_quantised_model_has_the_graph_of_its_float_twin(name) -> None:
    model = quantised(name)
    twin = float_twin(model)
    assert is_quantised(model[0])
    assert torch.allclose(model(X), twin(X), atol=0.05)
    graph, other = deepstruct.extract(model, X), deepstruct.extract(twin, X)
    mine, theirs = graph.edge_list(), other.edge_list()
    assert (graph.num_nodes, graph.num_structural_edges) == (64 + 32 + 8, 0)
    assert np.array_equal(mine.source, theirs.source)
    assert np.array_equal(mine.target, theirs.target)
    assert np.allclose(mine.weight, theirs.weight)
    zeros = sum(int((m.weight.dequantize() == 0).sum()) for m in (model[0], model[2]))
    assert graph.num_weight_edges == 64 * 32 + 32 * 8 - zeros
    check_equality(twin.double(), X.double())  # the derivative of rounding is zero; that of the twin is not


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_stays_as_it_was(name) -> None:
    model = quantised(name)
    before = [model[0].weight.dequantize().clone(), model(X).clone()]
    deepstruct.extract(model, X)
    assert torch.equal(model[0].weight.dequantize(), before[0])
    assert torch.equal(model(X), before[1])
    assert is_quantised(model[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_metrics(name) -> None:
    model = quantised(name)
    names = ["layer_weight_levels", "layer_weight_entropy"]
    report = deepstruct.analyze(model, X, orders=("zeroth",), metrics=names)
    levels, entropy = (row.value for row in report.rows)
    assert len(levels) == 2
    rows = 32  # each output has a scale of its own, so the layer as a whole has more values than codes
    for count, bits in zip(levels.values(), entropy.values(), strict=True):
        assert 1 < count <= rows * 2 ** BITS[name.partition("-")[0]] * 2
        assert 0 < bits <= np.log2(count) + 1e-9
    assert report.rows[0].provider == "quant"
    assert any("quant" in note for note in report.notes)


def test_entropy_of_known_values() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 1.0, 2.0, 3.0]]))
    report = deepstruct.analyze(model, torch.ones(1, 4), orders=("zeroth",), metrics=["layer_weight_entropy"])
    assert list(report.rows[0].value.values()) == [1.5]


def test_without_the_plugin_activations_that_are_quantised_are_units_of_their_own() -> None:
    model = quantised("int8-weights-and-activations")
    with use_host(Host(entry_points=False)):
        plain = deepstruct.extract(model, X)
    graph = deepstruct.extract(model, X)
    assert graph.num_weight_edges > 2000
    assert plain.num_nodes > graph.num_nodes == 64 + 32 + 8


def test_inside_a_transformer_block() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64)).eval()
    quantize_(block, CONFIGS["int8-weights-and-activations"]())
    graph = deepstruct.extract(block, torch.randn(1, 5, 64))
    zeros = sum(int((m.weight.dequantize() == 0).sum()) for m in (block[0], block[2]))
    assert graph.num_weight_edges == 5 * (2 * 64 * 64 - zeros)


def test_the_contract() -> None:
    assert set(check_plugin(("quant", plugin)).values()) == {"passed"}
