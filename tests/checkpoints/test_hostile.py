"""A folder of everything that goes wrong: each reported with a reason, the rest unharmed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import deepstruct
from deepstruct.checkpoints import load_state_dict
from deepstruct.checkpoints.discover import discover
from deepstruct.errors import CheckpointError, InputError
from deepstruct.plugin import get_host


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def build_hostile(folder, marker) -> dict[str, str]:
    """Fills a folder; name -> what the reason must say ("" for a checkpoint that is fine)."""

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {marker}",))

    state = net().state_dict()
    expected: dict[str, str] = {}

    def put(name, content, reason):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        expected[name] = reason
        return path

    put("good.pt", state, "")
    put("deeper/good.pt", state, "")
    put("evil.pt", {"state_dict": state, "x": Evil()}, "could run code")
    put("evil.bin", pickle.dumps(Evil()), "could run code")
    put("evil.ckpt", pickle.dumps(Evil(), protocol=0), "could run code")
    whole = put("cut.pt", state, "cut short")
    whole.write_bytes(whole.read_bytes()[:-300])
    put("empty.pt", b"", "empty")
    put("text.pth", b"this is no checkpoint\n", "cannot be read")
    put("tensor.pt", torch.ones(3), "single tensor")
    put("counter.pt", {"epoch": 3}, "no model state")
    put("scalar.pt", 7, "no model state")
    put("other.pt", nn.Linear(2, 2).state_dict(), "does not fit")
    put("wide.pt", {**state, "0.weight": torch.ones(9, 9)}, "0.weight is (9, 9) where the model has (3, 4)")
    huge = torch.ones(1).expand(1 << 40)
    put("repeat.pt", {**state, "0.weight": huge}, "claims tensors")
    put("meta.pt", {"0.weight": torch.ones(2, device="meta")}, "has no values")
    put("sparse.pt", {**state, "0.weight": torch.eye(4).to_sparse()}, "layout")
    put("nan.pt", {**state, "0.weight": torch.full((3, 4), float("nan"))}, "")
    put("inf.pt", {**state, "2.weight": torch.full((2, 3), float("inf"))}, "")
    put("half.pt", {key: value.half() for key, value in state.items()}, "")
    put("double.pt", {key: value.double() for key, value in state.items()}, "")
    put("byte.safetensors", struct.pack("<Q", 1 << 20) + b"{", "damaged")
    put("lying.safetensors", _safetensors({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, 4),
        "damaged")  # fmt: skip
    overlap = _safetensors({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}, 8)
    put("overlap.safetensors", overlap, "damaged")
    put("cut.safetensors", b"", "")
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "cut.safetensors")
    data = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(data[:-10])
    expected["cut.safetensors"] = "damaged"
    put("broken.index.json", b"{", "no index")
    (folder / "x.pt").mkdir()
    expected["x.pt"] = "it is a folder"
    bomb = folder / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(256 << 20))
        archive.writestr("archive/version", b"3\n")
    expected["bomb.pt"] = "zip bomb"
    (folder / "loop.pt").symlink_to(folder / "loop.pt")
    expected["loop.pt"] = "cannot be opened"
    (folder / "gone.pt").symlink_to(folder / "nowhere.pt")
    expected["gone.pt"] = "cannot be opened"
    (folder / "again").symlink_to(folder, target_is_directory=True)
    expected["again"] = "not followed"
    os.mkfifo(folder / "pipe.pt")
    expected["pipe.pt"] = "neither a file nor a folder"
    (folder / "notes.txt").write_text("no checkpoint, and not taken for one")
    if os.getuid():
        put("secret.pt", state, "cannot be")
        (folder / "secret.pt").chmod(0)
    return expected


def _safetensors(header, size) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


@pytest.fixture
def hostile(tmp_path):
    folder = tmp_path / "hostile"
    folder.mkdir()
    expected = build_hostile(folder, tmp_path / "ran")
    yield folder, expected, tmp_path / "ran"
    shutil.rmtree(folder, ignore_errors=True)


def test_every_file_of_a_hostile_folder_is_told(hostile) -> None:
    folder, expected, marker = hostile
    results = {os.path.relpath(r.path, folder): r for r in deepstruct.batch(folder, net(), torch.ones(1, 4))}
    assert results.keys() == expected.keys()
    assert not marker.exists(), "a pickle of the folder ran"
    for name, reason in expected.items():
        result = results[name]
        assert result.state == ("failed" if reason else "ok"), (name, result.error)
        assert reason in result.error, (name, result.error)
        assert not reason or result.path in result.error, (name, result.error)
        assert "\n" not in result.error
    assert results["good.pt"]["zeroth"] == results["deeper/good.pt"]["zeroth"] == results["double.pt"]["zeroth"]


def test_the_same_folder_without_a_model(hostile) -> None:
    folder, expected, marker = hostile
    results = {os.path.relpath(r.path, folder): r for r in deepstruct.batch(folder)}
    assert results.keys() == expected.keys()
    assert not marker.exists()
    fine = {name for name, result in results.items() if result.state == "ok"}
    assert fine == {name for name, reason in expected.items() if not reason or "fit" in reason or "where" in reason}


def test_nothing_runs_by_permission_of_torchscript_alone(hostile) -> None:
    folder, _, marker = hostile
    deepstruct.batch(folder / "evil.pt", net(), torch.ones(1, 4), allow_torchscript=True).run()
    assert not marker.exists()


def test_permission_to_unpickle_runs_what_it_says(hostile) -> None:
    """The counterpart: the marker is a real one."""
    folder, _, marker = hostile
    (result,) = deepstruct.batch(folder / "evil.pt", net(), torch.ones(1, 4), allow_pickle=True)
    assert result.state == "ok"
    assert marker.exists()


def test_a_zip_that_overlaps_itself(tmp_path) -> None:
    """Many members that share the same bytes: a bomb without compression."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(1 << 20))
        for info in archive.infolist():
            info.file_size = info.compress_size = 1 << 30
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        load_state_dict(path)


@pytest.mark.slow
def test_ten_thousand_tiny_files(tmp_path) -> None:
    state = nn.Linear(2, 1).state_dict()
    torch.save(state, tmp_path / "0.pt")
    data = (tmp_path / "0.pt").read_bytes()
    for k in range(10_000):
        (tmp_path / f"{k}.pt").write_bytes(data if k % 10 else b"junk")
    found = discover([tmp_path], get_host().registry())
    assert [os.path.basename(item.path) for item in found] == [f"{k}.pt" for k in range(10_000)]
    results = deepstruct.batch(tmp_path, nn.Linear(2, 1), torch.ones(1, 2), metrics=["edges"], shard=(1, 20))
    assert len(results.failures) == 500
    assert results.summary.ok == 0
    results = deepstruct.batch(tmp_path, nn.Linear(2, 1), torch.ones(1, 2), metrics=["edges"], shard=(2, 20))
    assert results.run().summary.ok == 500


def test_sources_that_hold_nothing(tmp_path) -> None:
    registry = get_host().registry()
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no checkpoint"):
        discover([tmp_path], registry)
    with pytest.raises(InputError, match="no file or folder"):
        discover([tmp_path / "none"], registry)
    with pytest.raises(InputError, match="no file matches"):
        discover([str(tmp_path / "*.pt")], registry)
    with pytest.raises(InputError, match=r"cannot be reached|cannot be listed"):
        discover(["nosuchscheme://bucket/x"], registry)


def test_patterns_urls_and_double_mention(tmp_path) -> None:
    registry = get_host().registry()
    for name in ("a.pt", "b.pt"):
        torch.save(net().state_dict(), tmp_path / name)
    assert len(discover([str(tmp_path / "*.pt"), tmp_path / "a.pt", tmp_path], registry)) == 2
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/runs/one-7.pt", (tmp_path / "a.pt").read_bytes())
    memory.pipe_file("/runs/notes.txt", b"hello")
    try:
        (item,) = discover(["memory://runs"], registry)
        assert item.remote
        (result,) = deepstruct.batch("memory://runs/one-7.pt", net(), torch.ones(1, 4))
        assert (result.state, result.step, result["zeroth"]["edges"]) == ("ok", 7, 18)
    finally:
        memory.rm("/runs", recursive=True)


def test_hugging_face_folders_are_one_checkpoint(tmp_path) -> None:
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({key: value.clone() for key, value in net().state_dict().items()}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"x": torch.ones(2, 2)}, folder / name)
    (result,) = deepstruct.batch(tmp_path, net(), torch.ones(1, 4))
    assert (result.path, result.state, result.step) == (str(folder), "ok", 500)
