"""Folders of the Hugging Face library without a model: it is built from config.json."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.checkpoints.huggingface import described
from tests.zoo_compat import declare_torchvision_ops

declare_torchvision_ops()
transformers = pytest.importorskip("transformers")


def bert() -> nn.Module:
    torch.manual_seed(1)
    return transformers.BertModel(transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
    ))  # fmt: skip


def gpt2() -> nn.Module:
    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    )


@pytest.fixture(params=[bert, gpt2])
def folder(request, tmp_path):
    """(folder, model): gpt2 shares its embedding with its head, and the file holds it once."""
    model = request.param()
    model.save_pretrained(tmp_path / "checkpoint-30")
    return tmp_path / "checkpoint-30", model


def test_rows_are_those_of_the_model_itself(folder) -> None:
    place, model = folder
    before = torch.get_rng_state()
    (result,) = deepstruct.batch(place)
    assert torch.equal(torch.get_rng_state(), before)
    assert (result.state, result.step) == ("ok", 30), result.error
    assert result.parameters == sum(p.numel() for p in model.parameters())
    model.config.use_cache = False
    report = deepstruct.analyze(model.eval(), orders=("zeroth",), analyzer="operator")
    expected = {row.name: row.value for row in report.rows if row.scope == "graph"}
    found = result["zeroth"]
    assert found.keys() == expected.keys()
    assert found["path_count"] > 0
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), name


def test_pruned_weights_count(folder) -> None:
    place, model = folder
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= torch.rand_like(parameter) > 0.5
    before = deepstruct.batch(place).run()
    model.save_pretrained(place)
    after = deepstruct.batch(place).run()
    edges = [next(iter(run))["zeroth"]["edges"] for run in (before, after)]
    assert edges[1] < edges[0]


def test_what_cannot_be_built_is_measured_matrix_by_matrix(folder) -> None:
    place, _ = folder
    config = json.loads((place / "config.json").read_text())
    size = "hidden_size" if "hidden_size" in config else "n_embd"
    layers = "num_hidden_layers" if "num_hidden_layers" in config else "n_layer"
    heads = "num_attention_heads" if "num_attention_heads" in config else "n_head"
    for change, why in (
        ({"model_type": "nosuchmodel"}, "has no model of the type 'nosuchmodel'"),
        ({size: 64}, "does not fit"),
        ({size: 1 << 40}, ""),  # too large to be made, or of other shapes
        ({layers: 10**9}, f"{layers} is 1,000,000,000"),
        ({heads: 0}, "is not used"),
    ):
        (place / "config.json").write_text(json.dumps({**config, **change}))
        results = deepstruct.batch(place)
        (result,) = results
        assert result.state == "ok", result.error
        row = results.rows()[0]
        assert "the model that its config.json describes is not used" in row["notes"]
        assert why in row["notes"]
        assert "each weight matrix or kernel apart" in row["notes"]


def test_a_config_that_describes_nothing(tmp_path) -> None:
    for text in ("{", "[]", "{}", '{"model_type": 3}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        assert described(tmp_path) is None
    assert described(tmp_path / "config.json") is None


def test_a_model_that_is_named_is_the_one_that_counts(folder) -> None:
    place, _ = folder
    (result,) = deepstruct.batch(place, nn.Linear(2, 2), torch.ones(1, 2))
    assert "does not fit Linear" in result.error
