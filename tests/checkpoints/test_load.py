"""Checkpoint files of every kind that people have, and what is wrong with the others."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from deepstruct import hookimpl
from deepstruct.checkpoints import checkpoint_files, load_state_dict, load_weights
from deepstruct.errors import CheckpointError, DeepstructError
from deepstruct.plugin import Host


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(tmp_path, zipped) -> None:
    model = net()
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert same(load_state_dict(path), model.state_dict())


def test_safetensors(tmp_path) -> None:
    state = {key: value.clone() for key, value in net().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    assert same(load_state_dict(tmp_path / "model.safetensors"), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {
            "step": 5,
            "model_state": s,
            "optimizer_state": {"state": {0: {"exp_avg": torch.ones(2)}}},
        },
        lambda s: {"model": {"model_args": {"n": 1}, "state_dict": s}},
    ],
)
def test_the_state_is_found_in_its_wrapper(tmp_path, wrap) -> None:
    state = net().state_dict()
    torch.save(wrap(state), tmp_path / "x.pth.tar")
    assert same(load_state_dict(tmp_path / "x.pth.tar"), state)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_refused_and_named(tmp_path, zipped) -> None:
    path = tmp_path / "whole.pt"
    torch.save(net(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"could run code.*torch\.nn\.modules") as error:
        load_state_dict(path)
    assert "weights_only=False" in str(error.value)


def test_a_malicious_pickle_does_not_run(tmp_path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        load_state_dict(tmp_path / "evil.pt")
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump(Evil(), file)
    with pytest.raises(CheckpointError):
        load_state_dict(tmp_path / "evil.pth")
    assert not ran.exists()


def test_torchscript_is_named(tmp_path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_state_dict(tmp_path / "script.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_files(tmp_path, content) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_state_dict(path)


def test_a_file_cut_short(tmp_path) -> None:
    path = tmp_path / "cut.pt"
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"cut\.pt.*damaged"):
        load_state_dict(path)


def test_unknown_and_missing_files(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="readers: torch, safetensors"):
        load_state_dict(tmp_path / "notes.txt")
    with pytest.raises(CheckpointError, match="No such file"):
        load_state_dict(tmp_path / "none.pt")


@pytest.mark.parametrize("value", [{"epoch": 1}, torch.ones(2), [1, 2], {}])
def test_files_without_a_state(tmp_path, value) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no model state"):
        load_state_dict(tmp_path / "x.pt")


def test_weights_into_a_model(tmp_path) -> None:
    torch.manual_seed(1)
    source, target = net(), net()
    torch.save(nn.DataParallel(source).state_dict(), tmp_path / "x.pt")
    load_weights(target, tmp_path / "x.pt")
    assert same(target.state_dict(), source.state_dict())


def test_masks_of_torch_prune_are_multiplied_in() -> None:
    source, target = net(), net()
    prune.random_unstructured(source[0], "weight", amount=0.5)
    load_weights(target, source.state_dict())
    assert torch.equal(target[0].weight, source[0].weight)
    assert int((target[0].weight == 0).sum()) == 6


def test_masks_stay_where_the_model_has_them() -> None:
    source, target = net(), net()
    for model in (source, target):
        prune.random_unstructured(model[0], "weight", amount=0.5)
    load_weights(target, source.state_dict())
    assert torch.equal(target[0].weight_mask, source[0].weight_mask)


def test_a_mismatch_names_keys_and_shapes_and_changes_nothing() -> None:
    target = net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {**net().state_dict(), "0.weight": torch.ones(5, 4), "odd": torch.ones(1)}
    del state["2.bias"]
    with pytest.raises(CheckpointError) as error:
        load_weights(target, state)
    message = str(error.value)
    assert "1 missing (2.bias)" in message
    assert "1 unexpected (odd)" in message
    assert "0.weight is (5, 4) where the model has (3, 4)" in message
    assert same(target.state_dict(), before)


def test_files_of_a_folder_in_order(tmp_path) -> None:
    for step in (10, 2, 1):
        torch.save(net().state_dict(), tmp_path / f"step-{step}.pt")
    (tmp_path / "notes.json").write_text("{}")
    assert [path.name for path in checkpoint_files(tmp_path)] == ["step-1.pt", "step-2.pt", "step-10.pt"]


def test_folders_without_checkpoints(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint_files(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        checkpoint_files(tmp_path / "none")


class CountReader:
    """Reads text files of numbers; fails on demand."""

    name = "numbers"
    safe = True

    def probe(self, path, head):
        if path.name == "probe.num":
            raise RuntimeError("cannot look")
        return 95 if path.suffix == ".num" else 0

    def open(self, path):
        if path.name == "fail.num":
            raise RuntimeError("cannot open")
        return {"weight": torch.tensor([float(x) for x in path.read_text().split()])}


class CountPlugin:
    @hookimpl
    def deepstruct_checkpoint_readers(self, ctx):
        return [CountReader()]


def test_hook_checkpoint_readers(tmp_path) -> None:
    registry = Host([("numbers", CountPlugin())], entry_points=False).registry()
    for name in ("ok.num", "fail.num", "probe.num"):
        (tmp_path / name).write_text("1 2 3")
    assert load_state_dict(tmp_path / "ok.num", registry=registry)["weight"].tolist() == [1, 2, 3]
    for name in ("fail.num", "probe.num"):
        with pytest.raises(DeepstructError, match=r"'numbers'.*cannot"):
            load_state_dict(tmp_path / name, registry=registry)
