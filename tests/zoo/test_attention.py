"""Two ways to compute attention are one graph."""

from __future__ import annotations

import pytest
import torch

import deepstruct
from tests.zoo.architectures import bert, llama, require, sizes, tokens

pytestmark = pytest.mark.zoo

METRICS = ("nodes", "edges", "weight_edges", "structural_edges", "effective_nodes", "effective_edges", "path_count")


def facts(model: torch.nn.Module, example: object) -> dict[str, dict[str, object]]:
    report = deepstruct.analyze(model.eval(), example, metrics=METRICS)
    return {order: dict(report[order]) for order in report}


def both(build, **inputs):
    """The facts of a model with eager and with fused attention, weights and inputs being the same."""
    found = []
    state = None
    for implementation in ("eager", "sdpa"):
        torch.manual_seed(0)
        model, example = build(attn_implementation=implementation)
        assert model.config._attn_implementation == implementation
        if state is None:
            state = model.state_dict()
        else:
            model.load_state_dict(state)
        found.append(facts(model, {**example, **inputs}))
    return found


@pytest.mark.parametrize("build", [bert, llama], ids=lambda f: f.__name__)
@pytest.mark.parametrize("mask", [None, [[1, 1, 1, 1, 1, 1]], [[1, 1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1, 1]]], ids=str)
def test_eager_and_fused_attention_agree(build, mask):
    require("transformers")
    inputs = {} if mask is None else {"attention_mask": torch.tensor(mask)}
    eager, fused = both(build, **inputs)
    assert eager == fused


def test_a_mask_removes_what_it_hides():
    require("transformers")
    model, example = bert()
    whole = facts(model, example)["zeroth"]
    hidden = facts(model, {**example, "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])})["zeroth"]
    # 2 layers of 2 heads have 36 scores each; 12 of them look at hidden positions
    assert whole["nodes"] - hidden["nodes"] == 2 * 2 * 12
    assert whole["weight_edges"] == hidden["weight_edges"]
    # a score reads 4 queries and 4 keys and is read by 4 outputs, as each of the hidden values was
    assert whole["structural_edges"] - hidden["structural_edges"] == 2 * 2 * 12 * (4 + 4 + 4 + 4)


def test_causal_attention_looks_back_only():
    t = require("transformers")
    length = 5
    config = t.LlamaConfig(**sizes(use_cache=False, num_hidden_layers=1))
    graph = deepstruct.extract(t.LlamaModel(config).eval(), {"input_ids": tokens(length)})
    (space,) = graph.score_spaces
    assert space.shape == (2, length, length)
    assert space.scores is not None
    assert torch.equal(space.scores.kept()[0], torch.ones(2, length, length, dtype=torch.bool).tril())
