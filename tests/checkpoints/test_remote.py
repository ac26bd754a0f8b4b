"""Checkpoints of several files behind URLs: the same rows as on this machine."""

from __future__ import annotations

import json

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

import deepstruct
from deepstruct.checkpoints.discover import discover
from deepstruct.checkpoints.remote import together
from deepstruct.errors import InputError
from deepstruct.plugin import get_host


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def bucket(tmp_path):
    """(folder of this machine, URL of its copy): a file, a folder with shards, a DCP folder, an index, a trainer's."""
    local = tmp_path / "runs"
    state = {name: value.clone() for name, value in net().state_dict().items()}
    names = list(state)
    for folder in ("plain", "hf/checkpoint-500", "sharded"):
        (local / folder).mkdir(parents=True)
    torch.save({"state_dict": state}, local / "plain" / "step-7.pt")
    (local / "plain" / "notes.txt").write_text("none")
    torch.save({"x": torch.ones(2)}, local / "plain" / "optimizer.pt")
    hf = local / "hf" / "checkpoint-500"
    (hf / "config.json").write_text("{}")
    save_file(state, hf / "model.safetensors")
    torch.save(state, hf / "pytorch_model.bin")
    table = {}
    for k, part in enumerate((names[:2], names[2:])):
        save_file({name: state[name] for name in part}, local / "sharded" / f"part-{k}.safetensors")
        table.update(dict.fromkeys(part, f"part-{k}.safetensors"))
    (local / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    dcp.save({"model": net().state_dict()}, checkpoint_id=local / "dcp", no_dist=True)
    (local / "broken.index.json").write_text("{")
    memory = fsspec.filesystem("memory")
    memory.put(str(local), "/bucket", recursive=True)
    yield local, "memory:///bucket"
    memory.rm("/bucket", recursive=True)


def test_the_same_checkpoints_and_rows_as_on_this_machine(bucket) -> None:
    local, url = bucket
    here = {r.path.removeprefix(f"{local}/"): r for r in deepstruct.batch(local, net(), torch.ones(1, 4))}
    there = {r.path.removeprefix(f"{url}/"): r for r in deepstruct.batch(url, net(), torch.ones(1, 4))}
    assert set(there) == set(here)
    assert len(there) == 5
    for name, result in there.items():
        assert (result.state, result.step) == (here[name].state, here[name].step), (name, result.error)
        assert [(row["name"], row["value"]) for row in result.rows] == [
            (row["name"], row["value"]) for row in here[name].rows
        ]
    bad = there.pop("broken.index.json")
    assert f"{url}/broken.index.json is no index of shards" in bad.error
    assert all(result.state == "ok" and result["zeroth"]["edges"] == 18 for result in there.values())


def test_named_alone_and_by_pattern(bucket) -> None:
    _, url = bucket
    registry = get_host().registry()
    for one in ("hf/checkpoint-500", "dcp", "sharded/model.safetensors.index.json", "plain/step-7.pt"):
        (found,) = discover([f"{url}/{one}"], registry)
        assert found.path == f"{url}/{one}"
        (result,) = deepstruct.batch(f"{url}/{one}", net(), torch.ones(1, 4))
        assert result.state == "ok", result.error
    assert [item.path for item in discover([f"{url}/plain/*.pt"], registry)] == [f"{url}/plain/step-7.pt"]
    with pytest.raises(InputError, match="there is nothing at"):
        discover([f"{url}/nowhere"], registry)


def test_what_changed_behind_a_url_is_done_again(bucket, tmp_path) -> None:
    local, url = bucket
    ask = (f"{url}/sharded", net(), torch.ones(1, 4))
    deepstruct.batch(*ask, out=tmp_path / "m.db").run().close()
    again = deepstruct.batch(*ask, out=tmp_path / "m.db").run()
    assert [result.earlier for result in again] == [True]
    again.close()
    shard = local / "sharded" / "part-0.safetensors"
    state = net().state_dict()
    save_file({"0.weight": torch.zeros(3, 4), "0.bias": state["0.bias"]}, shard)
    fsspec.filesystem("memory").put(str(shard), "/bucket/sharded/part-0.safetensors")
    anew = deepstruct.batch(*ask, out=tmp_path / "m.db").run()
    (result,) = anew
    assert (result.earlier, result["zeroth"]["edges"]) == (False, 6)
    anew.close()


def test_a_shard_that_is_missing_is_told(bucket) -> None:
    _, url = bucket
    fsspec.filesystem("memory").rm("/bucket/sharded/part-1.safetensors")
    (result,) = deepstruct.batch(f"{url}/sharded", net(), torch.ones(1, 4))
    assert result.state == "failed"
    assert f"{url}/sharded/model.safetensors.index.json cannot be fetched: FileNotFoundError" in result.error


def test_names_decide_what_belongs_together() -> None:
    index = json.dumps({"weight_map": {"a": "one.bin", "b": "two.bin"}}).encode()
    files = {name: {} for name in ("r/x.index.json", "r/one.bin", "r/two.bin", "r/three.bin", "s/one.bin", "top.pt")}
    found = dict(together(files, lambda _: index))
    assert found == {
        "r/x.index.json": ("r/x.index.json", "r/one.bin", "r/two.bin"), "r/three.bin": (), "s/one.bin": (),
        "top.pt": (),
    }  # fmt: skip
