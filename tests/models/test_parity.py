"""Models of versions before 1.0: their state dicts load strictly, and give their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.sparse import CachedLayeredGraph, DeepCellDAN, MaskedDeepDAN, MaskedDeepFFN

DATA = Path(__file__).parent / "data"
ENTRIES: dict[str, Any] = {
    **torch.load(DATA / "original_models.pt", weights_only=True),
    **torch.load(DATA / "original_wide.pt", weights_only=True),
}
DANS = ["MaskedDeepDAN", "MaskedDeepDAN_layer_norm", "wide", "wide_norm"]


def cell(is_input: bool, in_degree: int, input_channel_size: int, **_: Any) -> nn.Module:
    channels = input_channel_size if is_input else in_degree
    return nn.Sequential(nn.Conv2d(channels, 1, 3, padding=1, stride=2 if is_input else 1), nn.ReLU())


def structure_of(entry: dict[str, Any]) -> CachedLayeredGraph:
    graph = CachedLayeredGraph()
    graph.add_nodes_from(entry["nodes"])
    graph.add_edges_from(entry["edges"])
    return graph


def build(name: str) -> nn.Module:
    entry = ENTRIES[name]
    if name == "MaskedDeepFFN":
        return MaskedDeepFFN(**entry["args"])
    if name == "DeepCellDAN":
        return DeepCellDAN(cell_constructor=cell, structure=structure_of(entry), **entry["args"]).eval()
    return MaskedDeepDAN(structure=structure_of(entry), **entry["args"])


@pytest.mark.parametrize("name", ["MaskedDeepFFN", "DeepCellDAN", *DANS])
def test_strict_load_and_outputs(name: str) -> None:
    model = build(name)
    model.load_state_dict(ENTRIES[name]["state_dict"], strict=True)
    torch.testing.assert_close(model(ENTRIES[name]["input"]), ENTRIES[name]["output"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DANS)
def test_layers_and_structure(name: str) -> None:
    entry, model = ENTRIES[name], build(name)
    graph = structure_of(entry)
    assert {k: graph.get_vertices(k) for k in graph.layers} == {int(k): v for k, v in entry["layers"].items()}
    model.load_state_dict(entry["state_dict"])
    found = model.generate_structure(include_input=False, include_output=False)
    assert len(found) == entry.get("structure_nodes", len(entry["nodes"]))
    assert found.number_of_edges() == entry.get("structure_edges", len(entry["edges"]))


@pytest.mark.parametrize("name", DANS)
def test_the_way_back_to_the_originals_names(name: str) -> None:
    entry, model = ENTRIES[name], build(name)
    model.load_state_dict(entry["state_dict"])
    back = model.original_state_dict()
    assert set(back) == set(entry["state_dict"])
    for key, tensor in entry["state_dict"].items():
        kept = tensor.float()
        if key.endswith(".weight") and key.replace(".weight", "._mask") in back:
            kept = kept * entry["state_dict"][key.replace(".weight", "._mask")].float()
        assert torch.equal(back[key].float(), kept), key
    twin = build(name)
    twin.load_state_dict(back)
    assert torch.equal(twin(entry["input"]), model(entry["input"]))


def test_edges_that_only_the_checkpoint_has() -> None:
    """In the original, any mask entry can become true."""
    entry = ENTRIES["wide"]
    model = build("wide")
    state = {k: v.clone() for k, v in entry["state_dict"].items()}
    state["layers_main_hidden.0._mask"][:] = 1
    model.load_state_dict(state)
    dense = build("wide")
    dense.load_state_dict(model.state_dict())  # of other edges, too
    assert len(model.hidden.weight) > len(entry["edges"])
    torch.testing.assert_close(model(entry["input"]), dense(entry["input"]))
    assert (model(entry["input"]) - entry["output"]).abs().max() > 1e-3


def test_checkpoints_that_do_not_fit() -> None:
    state = dict(ENTRIES["wide"]["state_dict"])
    state["layers_main_hidden.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(InputError, match=r"layers_main_hidden\.0\.weight has shape \(2, 2\)"):
        build("wide").load_state_dict(state)
    del state["layers_main_hidden.0.weight"]
    with pytest.raises(InputError, match=r"lacks layers_main_hidden\.0\.weight"):
        build("wide").load_state_dict(state)
    with pytest.raises(InputError, match='skips="separate"'):
        MaskedDeepDAN(7, 3, structure_of(ENTRIES["wide"]), skips="sum").load_state_dict(ENTRIES["wide"]["state_dict"])
    state = dict(ENTRIES["wide"]["state_dict"], further=torch.zeros(1))
    with pytest.raises(RuntimeError, match="further"):
        build("wide").load_state_dict(state)
