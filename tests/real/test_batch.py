"""Real checkpoints of seven kinds in one folder, in one run: read, matched, or honestly refused."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import deepstruct
from deepstruct.checkpoints import load_state_dict
from tests.real import models

pytestmark = pytest.mark.real

# name in the folder: (checkpoint, reader, parameters)
FOLDER = {
    "pnet.pt": ("pnet", "torch", 6_632),
    "rnet.pt": ("rnet", "torch", 100_178),
    "onet.pt": ("onet", "torch", 389_040),
    "tiny.pth": ("crepe_tiny", "torch", 486_552),
    "pretrained.pt": ("voice_encoder", "torch", 1_423_618),  # 1,423,616 and two numbers of its loss
    "silero_vad_16k.safetensors": ("vad", "safetensors", 309_633),
    "0.2.0.pth.tar": ("chgnet_0.2", "torch", 400_438),
    "0.3.0.pth.tar": ("chgnet_0.3", "torch", 412_525),
    "r2scan.pth.tar": ("chgnet_r2scan", "torch", 412_525),
}


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    for name, (key, _, _) in FOLDER.items():
        shutil.copy(checkpoint(key), tmp_path / name)
    shutil.copy(checkpoint("vad_script"), tmp_path / "vad.pt")
    (tmp_path / "minilm").mkdir()
    shutil.copy(checkpoint("minilm"), tmp_path / "minilm" / "model.safetensors")
    shutil.copy(checkpoint("minilm_config"), tmp_path / "minilm" / "config.json")
    return tmp_path


def test_seven_kinds_in_one_run(folder) -> None:
    """Legacy files, zip files, one saved from CUDA with its optimizer, nested ones, safetensors, a folder, a script."""
    results = deepstruct.batch(folder)
    found = {os.path.relpath(r.path, folder): r for r in results}
    assert found.keys() == {*FOLDER, "vad.pt", "minilm"}
    readers = {os.path.relpath(row["path"], folder): row["reader"] for row in results.rows(wide=True)}
    for name, (_, reader, parameters) in FOLDER.items():
        assert found[name].state == "ok", (name, found[name].error)
        assert (found[name].parameters, readers[name]) == (parameters, reader)
    assert found["vad.pt"].state == "failed"
    assert "is a TorchScript archive" in found["vad.pt"].error
    with safe_open(folder / "minilm" / "model.safetensors", "pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys() if "position_ids" not in key]  # noqa: SIM118
    assert found["minilm"].state == "ok"
    assert readers["minilm"] == "huggingface"
    assert found["minilm"].parameters == sum(math.prod(shape) for shape in shapes)


def test_weights_of_each_layer_are_those_of_the_file(folder) -> None:
    """Counts and spectra without a model against the tensors themselves."""
    for name in ("pretrained.pt", "tiny.pth", "silero_vad_16k.safetensors"):
        (result,) = deepstruct.batch(folder / name)
        state = load_state_dict(folder / name)
        counts = {row["layer"]: row["value"] for row in result.rows if row["name"] == "layer_nonzero_weights"}
        norms = {row["layer"]: row["value"] for row in result.rows if row["name"] == "layer_log10_frobenius_norm"}
        matrices = {key.removesuffix(".weight"): value for key, value in state.items() if value.dim() >= 2}
        assert matrices
        for layer, value in matrices.items():
            assert counts[layer] == int(value.count_nonzero())
            assert norms[layer] == pytest.approx(math.log10(float(value.double().norm())), abs=1e-6)


def test_a_fine_tuned_pair_differs_and_another_version_does_not_fit(folder) -> None:
    results = deepstruct.batch([folder / "0.3.0.pth.tar", folder / "r2scan.pth.tar"])
    one, two = ({(row["layer"], row["name"]): row["value"] for row in r.rows} for r in results)
    assert one.keys() == two.keys()
    assert any(one[key] != two[key] for key in one if key[1] == "layer_log10_spectral_norm")


def test_a_model_takes_its_own_and_refuses_the_rest(folder) -> None:
    x = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(0))
    results = deepstruct.batch(folder, models.VoiceEncoder, x, metrics=["parameters", "edges"])
    states = {os.path.relpath(r.path, folder): r for r in results}
    assert [name for name, r in states.items() if r.state == "ok"] == ["pretrained.pt"]
    assert states["pretrained.pt"].step == 1_564_501
    encoder = states["pretrained.pt"]["zeroth"]
    loss = sum(p.numel() for name, p in models.VoiceEncoder().named_parameters() if name.startswith("similarity"))
    assert encoder["parameters"] - loss == 1_423_616
    for name, result in states.items():
        if name not in ("pretrained.pt", "vad.pt"):
            assert "does not fit VoiceEncoder" in result.error, name
            assert "missing (similarity_weight, similarity_bias, lstm.weight_ih_l0, ...)" in result.error


def test_by_permission_a_script_is_read_too(folder) -> None:
    (result,) = deepstruct.batch(folder / "vad.pt", allow_torchscript=True)
    assert result.state == "ok"
    assert result.parameters > 309_633, "the script holds networks for two sampling rates"
