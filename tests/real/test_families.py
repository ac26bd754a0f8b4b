"""Trained networks of other families at all four orders: wide convolutions, speech, crystals, language."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.checkpoints import load_state_dict
from deepstruct.report.report import Report
from deepstruct.testing import check_vjp
from tests.real import crystals, models
from tests.zoo.registry import require

pytestmark = pytest.mark.real

WIDE = (1024, 128, 128, 128, 256, 512)
METRICS = ("nodes", "edges", "weight_edges", "structural_edges", "parameters", "effective_nodes", "path_count_log10")


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def bert(config: Path) -> nn.Module:
    transformers = require("transformers")
    known = json.loads(config.read_text())
    return transformers.BertModel(transformers.BertConfig(**known), add_pooling_layer=True)


# name: (parameters, input)
NETWORKS: dict[str, tuple[int, Any]] = {
    "crepe_full": (22_239_976, lambda: noise(1, 1024)),
    "vad": (309_633, lambda: (noise(1, 576), noise(1, 128), noise(1, 128))),
    "chgnet_0.2": (400_438, crystals.ring),
    "chgnet_0.3": (412_525, crystals.ring),
    "chgnet_r2scan": (412_525, crystals.ring),
    "minilm": (22_713_216, lambda: torch.tensor([[101, 7592, 2088, 2003, 2613, 102]])),
}


def build(name: str, checkpoint: Callable[[str], Path]) -> nn.Module:
    if name == "crepe_full":
        return models.PitchNet(WIDE)
    if name == "vad":
        return models.VoiceDetector()
    if name == "minilm":
        return bert(checkpoint("minilm_config"))
    old = {"norm": False, "hidden": 2, "power": 5, "radial": 9, "angular": 9}
    return crystals.CrystalNet(**old) if name == "chgnet_0.2" else crystals.CrystalNet()


@pytest.fixture(scope="module")
def network(checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[nn.Module, Any]]:
    """name -> (module with the weights of the file, every key used, in evaluation mode; example input)."""

    def make(name: str) -> tuple[nn.Module, Any]:
        file = checkpoint(name)
        model = build(name, checkpoint)
        state = load_state_dict(file)
        state.pop("embeddings.position_ids", None)  # a range of numbers that later versions do not store
        model.load_state_dict(state)
        return model.eval(), NETWORKS[name][1]()

    return make


@pytest.fixture(scope="module")
def analysed(network: Callable[[str], tuple[nn.Module, Any]]) -> Callable[[str], Report]:
    done: dict[str, Report] = {}

    def get(name: str) -> Report:
        if name not in done:
            done[name] = deepstruct.analyze(*network(name), metrics=METRICS, progress=False)
        return done[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
def test_four_orders(name: str, network: Any, analysed: Callable[[str], Report]) -> None:
    model, _ = network(name)
    report = analysed(name)
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[name][0]
    assert list(report) == ["zeroth", "first", "second", "third"]
    nodes = [report[order]["nodes"] for order in report]
    assert nodes == sorted(nodes, reverse=True)
    for order in report:
        row = report[order]
        assert row["parameters"] == NETWORKS[name][0]
        assert row["edges"] == row["weight_edges"] + row["structural_edges"]
        assert 0 < row["effective_nodes"] <= row["nodes"]
    assert report["zeroth"]["path_count_log10"] > math.log10(report["zeroth"]["edges"])


def products(model: nn.Module, example: Any) -> int:
    """Non-zero weights times the rows that each linear layer is applied to, seen while the model runs."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        rows = inputs[0].numel() // inputs[0].shape[-1]
        total += int(layer.weight.count_nonzero()) * rows

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model(*example) if isinstance(example, tuple) else model(example)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", ["chgnet_0.2", "chgnet_0.3", "chgnet_r2scan", "minilm"])
def test_weight_edges_are_the_products_of_the_linear_layers(
    name: str, network: Any, analysed: Callable[[str], Report]
) -> None:
    model, example = network(name)
    expected = products(model, example)
    if name != "minilm":
        expected -= int(model.composition_model["fc"].weight.count_nonzero())  # of numbers of atoms: control
        expected -= len(example[2]) * int(model.angle_embedding.weight[:, 0].count_nonzero())  # of a constant
    assert analysed(name)["zeroth"]["weight_edges"] == expected


def test_weight_edges_of_the_voice_detector(network: Any, analysed: Callable[[str], Report]) -> None:
    """By counting taps: lengths 4, 4, 2, 1, 1 behind the spectrum, with a margin of one zero around each."""
    model, _ = network("vad")

    def taps(weight: torch.Tensor, before: int, stride: int) -> int:
        after = (before - 1) // stride + 1
        found = 0
        for tap in range(3):
            times = sum(0 <= o * stride + tap - 1 < before for o in range(after))
            found += int(weight[..., tap].count_nonzero()) * times
        return found

    expected = 4 * int(model.stft_conv.weight.count_nonzero())
    for conv, before in ((model.conv1, 4), (model.conv2, 4), (model.conv3, 2), (model.conv4, 1)):
        expected += taps(conv.weight, before, conv.stride[0])
    expected += sum(int(w.count_nonzero()) for w in (model.lstm_cell.weight_ih, model.lstm_cell.weight_hh))
    expected += int(model.final_conv.weight.count_nonzero())
    assert analysed("vad")["zeroth"]["weight_edges"] == expected


@pytest.mark.parametrize("name", ["vad", "chgnet_0.2", "chgnet_0.3", "minilm"])
def test_derivatives_are_contained(name: str, network: Any) -> None:
    model, example = network(name)
    probes = check_vjp(model, example, outputs=2, generic=True)
    assert all(probe.depends_on > 0 for probe in probes)


def test_the_voice_detector_is_the_published_program(checkpoint: Callable[[str], Path]) -> None:
    """Once it has the weights of the script, which come from another training than those of the other file."""
    script = torch.jit.load(checkpoint("vad_script"))
    model = models.VoiceDetector().eval()
    published = [value for key, value in script.state_dict().items() if key.startswith("_model.")]
    model.load_state_dict(dict(zip(model.state_dict(), published, strict=True)))
    audio, hidden, cell = NETWORKS["vad"][1]()
    with torch.no_grad():
        expected, state = script._model(audio, torch.stack([hidden, cell]))
        found, *states = model(audio, hidden, cell)
    torch.testing.assert_close(found[:, None], expected)
    torch.testing.assert_close(torch.stack(states), state)
