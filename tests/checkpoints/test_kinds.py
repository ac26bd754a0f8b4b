"""Every kind of checkpoint that people have: read, unwrapped, and matched to an architecture."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from deepstruct.checkpoints import load_state_dict, load_weights
from deepstruct.checkpoints.match import match_state, tied
from deepstruct.checkpoints.permissions import allowing
from deepstruct.checkpoints.pickles import wanted_globals
from deepstruct.checkpoints.reading import content_hash, read_checkpoint
from deepstruct.errors import CheckpointError
from deepstruct.plugin import get_host


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def clones(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def save_shards(state, folder, name="model.safetensors.index.json"):
    names = list(state)
    half = len(names) // 2
    table = {}
    for k, part in enumerate((names[:half], names[half:])):
        file = f"model-{k}.safetensors"
        save_file({key: state[key] for key in part}, folder / file)
        table.update(dict.fromkeys(part, file))
    (folder / name).write_text(json.dumps({"weight_map": table}))
    return folder / name


def test_an_index_with_its_shards(tmp_path) -> None:
    state = clones(net())
    assert same(load_state_dict(save_shards(state, tmp_path)), state)


def test_an_index_without_a_shard_or_with_one_outside(tmp_path) -> None:
    index = save_shards(clones(net()), tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors, which is not there"):
        load_state_dict(index)
    index.write_text(json.dumps({"weight_map": {"x": "../secret.pt"}}))
    with pytest.raises(CheckpointError, match="in the folder of their index"):
        load_state_dict(index)


def test_a_shard_that_lacks_a_tensor_of_its_index(tmp_path) -> None:
    index = save_shards(clones(net()), tmp_path)
    table = json.loads(index.read_text())
    table["weight_map"]["odd"] = "model-0.safetensors"
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="lacks 1 tensors of its index, the first is 'odd'"):
        load_state_dict(index)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_hugging_face_folder(tmp_path, sharded) -> None:
    state = clones(net())
    (tmp_path / "config.json").write_text("{}")
    if sharded:
        save_shards(state, tmp_path)
    else:
        save_file(state, tmp_path / "model.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    assert same(load_state_dict(tmp_path), state)


def test_a_distributed_checkpoint(tmp_path) -> None:
    model = net()
    dcp.save({"model": model.state_dict(), "optimizer": {"lr": 0.1, "state": {"m": torch.ones(3)}}, "step": 7},
             checkpoint_id=tmp_path / "ckpt", no_dist=True)  # fmt: skip
    other = net()
    load_weights(other, tmp_path / "ckpt")
    assert same(clones(other), clones(model))


def test_metadata_of_a_distributed_checkpoint_runs_nothing(tmp_path) -> None:
    folder = tmp_path / "ckpt"
    dcp.save({"model": net().state_dict()}, checkpoint_id=folder, no_dist=True)

    class Evil:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "ran",))

    (folder / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read safely"):
        load_state_dict(folder)
    assert not (tmp_path / "ran").exists()


def test_a_distributed_checkpoint_that_lacks_a_file(tmp_path) -> None:
    folder = tmp_path / "ckpt"
    dcp.save({"model": net().state_dict()}, checkpoint_id=folder, no_dist=True)
    for file in folder.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="claims tensors of"):
        load_state_dict(folder)


def test_torchscript_by_permission(tmp_path) -> None:
    model = net().eval()
    torch.jit.trace(model, torch.ones(1, 4)).save(str(tmp_path / "m.pt"))
    with pytest.raises(CheckpointError, match="allow_torchscript"):
        load_state_dict(tmp_path / "m.pt")
    with allowing(torchscript=True):
        assert same(load_state_dict(tmp_path / "m.pt"), clones(model))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_by_permission(tmp_path, zipped) -> None:
    model = net()
    torch.save({"model": model, "epoch": 3}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    assert wanted_globals(tmp_path / "m.pt") == sorted(
        {f"torch.nn.modules.{kind}" for kind in ("batchnorm.BatchNorm1d", "container.Sequential", "linear.Linear")}
    )
    with pytest.raises(CheckpointError, match=r"could run code.*BatchNorm1d.*--allow-pickle"):
        load_state_dict(tmp_path / "m.pt")
    found = read_checkpoint(tmp_path / "m.pt", "m.pt", get_host().registry(), allow_pickle=True)
    assert same(found.state, clones(model))
    assert "unpickled with permission: torch.nn.modules" in found.notes[0]
    assert found.step == 3


@pytest.mark.parametrize(
    ("prefix", "beside"),
    [("module.", {}), ("_orig_mod.", {}), ("module._orig_mod.", {}), ("model.", {"criterion.weight": torch.ones(2)}),
     ("backbone.encoder.", {"head.weight": torch.ones(2, 2)})],
)  # fmt: skip
def test_prefixes_are_taken_off(prefix, beside) -> None:
    model = net()
    state = {**{prefix + key: value for key, value in clones(model).items()}, **beside}
    found = match_state(state, model.state_dict(), "x.pt", "Net")
    assert same(found.state, clones(model))
    assert any("left aside" in note for note in found.notes) == bool(beside)


def test_prefixes_are_put_on_and_wrappers_inside_names_dropped() -> None:
    inner = net()
    outer = nn.ModuleDict({"model": inner})
    assert same(match_state(clones(inner), outer.state_dict(), "x", "Net").state, clones(outer))
    state = {key.replace("0.", "0._orig_mod.", 1): value for key, value in clones(inner).items()}
    assert "0._orig_mod.weight" in state
    assert same(match_state(state, inner.state_dict(), "x", "Net").state, clones(inner))


def test_counters_of_batch_norm_may_be_missing() -> None:
    model = net()
    state = {key: value for key, value in clones(model).items() if "num_batches" not in key}
    assert len(match_state(state, model.state_dict(), "x", "Net").state) == len(state)


def test_complex_and_quantised_tensors_do_not_fit() -> None:
    model = net()
    quantised = torch.quantize_per_tensor(torch.ones(3, 4), 1, 0, torch.qint8)
    for wrong in (torch.ones(3, 4, dtype=torch.complex64), quantised):
        with pytest.raises(CheckpointError, match=r"0\.weight is of type"):
            match_state({**clones(model), "0.weight": wrong}, model.state_dict(), "x", "Net")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_noted(tmp_path, value) -> None:
    state = clones(net())
    state["0.weight"][0, 0] = value
    torch.save(state, tmp_path / "x.pt")
    notes = read_checkpoint(tmp_path / "x.pt", "x.pt", get_host().registry()).notes
    assert "1 tensors hold NaN or infinity (the first is 0.weight)" in notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_noted(tmp_path, dtype) -> None:
    torch.save(net().to(dtype).state_dict(), tmp_path / "x.pt")
    notes = read_checkpoint(tmp_path / "x.pt", "x.pt", get_host().registry()).notes
    assert notes == (f"stored as {str(dtype).removeprefix('torch.')}",)


@pytest.mark.parametrize(
    ("name", "saved", "step"),
    [("step-10.pt", {}, 10), ("step-10.pt", {"epoch": 2}, 2), ("a.pt", {"epoch": 2, "global_step": 5}, 5),
     ("a.pt", {}, None), ("checkpoint-500/model.pt", {}, 500), ("resnet18.pt", {}, None), ("vad_16k.pt", {}, None),
     ("epoch=3-step=400.ckpt", {}, 400), ("7.pth.tar", {}, 7)],
)  # fmt: skip
def test_steps(tmp_path, name, saved, step) -> None:
    path = tmp_path / "runs" / name
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": net().state_dict(), **saved}, path)
    short = str(path.relative_to(tmp_path))
    assert read_checkpoint(path, short, get_host().registry()).step == step


def test_content_hashes_tell_contents_apart(tmp_path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    a.write_bytes(b"one")
    b.write_bytes(b"one")
    c.write_bytes(b"two")
    assert content_hash(a) == content_hash(b) != content_hash(c)


def test_several_modules_side_by_side(tmp_path) -> None:
    parts = {"actor": net().state_dict(), "critic": net().state_dict(), "optim": {"m": torch.ones(2)}}
    torch.save(parts, tmp_path / "x.pt")
    found = load_state_dict(tmp_path / "x.pt")
    assert {name.partition(".")[0] for name in found} == {"actor", "critic"}
    assert len(found) == 2 * len(net().state_dict())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_one_name_of_a_shared_parameter_is_enough(kept, prefix) -> None:
    model = Tied()
    assert tied(model) == [["embed.weight", "head.weight"]]
    value = torch.randn(6, 3)
    load_weights(model, {prefix + kept: value})
    assert torch.equal(model.embed.weight, value)
    assert model.embed.weight is model.head.weight
