"""The named architectures at all four orders, through the front door."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepstruct
from tests.zoo.architectures import ZOO, Architecture, require, tokens

pytestmark = pytest.mark.zoo

METRICS = ("nodes", "edges", "weight_edges", "structural_edges", "effective_nodes", "path_count_log10")


@pytest.mark.parametrize("kind", ZOO, ids=str)
def test_all_four_orders(kind: Architecture):
    model, example = kind.make()
    report = deepstruct.analyze(model, example, metrics=METRICS)
    assert list(report) == ["zeroth", "first", "second", "third"]
    sizes = [report[order]["nodes"] for order in report]
    assert sizes == sorted(sizes, reverse=True), "an order has more nodes than the one below it"
    assert sizes[-1] >= 3
    for order in report:
        row, graph = report[order], report.graphs[order]
        assert row["edges"] == row["weight_edges"] + row["structural_edges"] > 0
        assert 0 < row["effective_nodes"] <= row["nodes"] if graph.is_dag else row["nodes"] > 0
        assert (row["nodes"], row["edges"]) == (graph.num_nodes, graph.num_edges)
    zeroth, first, _, third = report.graphs.values()
    assert zeroth.is_dag
    assert third.is_dag
    assert first.is_dag == kind.acyclic_first
    cyclic = [order for order, graph in report.graphs.items() if not graph.is_dag]
    assert {s.order for s in report.skipped if s.name == "path_count_log10"} == set(cyclic)
    assert all("cycle" in s.reason for s in report.skipped)
    assert report["zeroth"]["path_count_log10"] > 0
    assert zeroth.num_parameters == sum(p.numel() for p in model.parameters())
    assert first.num_weights == zeroth.num_weights <= zeroth.num_parameters
    assert not zeroth.unknown


@pytest.mark.parametrize("kind", ZOO, ids=str)
def test_outputs_are_nodes(kind: Architecture):
    """Every element of the first output tensor is a node of the graph (some are equal, none is lost)."""
    model, example = kind.make()
    graph = deepstruct.extract(model, example)
    _, operand = graph.outputs[0]
    slots = operand.index()
    assert bool((slots >= 0).all())
    if graph.parent is not None:
        slots = graph.parent[slots]
    assert bool(graph.is_node[slots].all())
    assert len(graph.output_nodes()) >= slots.unique().numel()


def test_a_head_of_zeros_has_no_paths():
    """torchvision's vision transformer starts with a head of zeros: nothing is effective, and the report says so."""
    models = require("torchvision").models
    model = models.VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3).eval()
    report = deepstruct.analyze(model, torch.randn(1, 3, 16, 16), orders="zeroth")
    row = report["zeroth"]
    assert row["nodes"] > 0
    assert row["effective_nodes"] == row["effective_edges"] == row["path_count"] == 0
    reasons = {s.name: s.reason for s in report.skipped}
    assert "no path" in reasons["path_count_log10"]


def test_tied_weights_count_once():
    t = require("transformers")
    sizes = {"vocab_size": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "use_cache": False}
    config = t.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    ids = {"input_ids": tokens(4)}
    tied = deepstruct.extract(t.GPT2LMHeadModel(config).eval(), ids)
    apart = deepstruct.extract(
        t.GPT2LMHeadModel(t.GPT2Config(**{**config.to_dict(), "tie_word_embeddings": False})).eval(), ids
    )
    assert tied.num_edges == apart.num_edges
    assert apart.num_parameters - tied.num_parameters == 40 * 8


def test_an_example_input_of_the_library_is_found():
    t = require("transformers")
    timm = require("timm")
    config = t.BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    assert deepstruct.extract(t.BertModel(config).eval(), order="second").num_nodes > 5
    model = timm.create_model("resnet10t", num_classes=3).eval()
    assert model.default_cfg["input_size"] == (3, 176, 176)
    graph = deepstruct.extract(model, order="second")
    assert graph.origin.spaces[0].shape == (1, 3, 176, 176)


def test_the_first_order_of_a_chain_has_one_edge_per_pair_of_channels():
    """VGG is a chain: kernels join all channels, pools one to one, and the first linear reads blocks of a channel."""
    kind = next(a for a in ZOO if a.name == "vgg11")
    model, example = kind.make()
    graph = deepstruct.extract(model, example, order="first")
    expected, channels = 0, 3
    for layer in [*model.features, model.avgpool, *model.classifier]:
        if isinstance(layer, nn.Conv2d):
            expected += layer.in_channels * layer.out_channels
            channels = layer.out_channels
        elif isinstance(layer, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            expected += channels
        elif isinstance(layer, nn.Linear):
            expected += channels * layer.out_features
            channels = layer.out_features
    assert graph.num_edges == expected
