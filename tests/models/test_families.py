"""Families of networks, data sets of functions, faces on extraction, and small helpers."""

from __future__ import annotations

import math
import pickle

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import util
from deepstruct.dataset import FuncDataset, FunctionalDataset
from deepstruct.errors import InputError
from deepstruct.graph import CachedLayeredGraph, LabeledDAG, relational_graph
from deepstruct.models import message_exchange_mlp
from deepstruct.scalable import ScalableDAN, ScalableDeepFFN
from deepstruct.sparse import MaskedDeepFFN, MaskedLinearLayer
from deepstruct.transform import Conv2dLayerFunctor, ForgetfulFunctor, GraphTransform, LinearLayerFunctor

THEME = CachedLayeredGraph([(0, 3), (1, 3), (1, 4), (2, 4), (0, 5), (3, 5), (4, 5), (4, 6)])


@pytest.mark.parametrize("scale", [10, 100, 1000])
def test_a_theme_at_any_scale(scale: int) -> None:
    family = ScalableDAN(THEME)
    grown = family.grow(scale)
    owner = {v: name for name, block in family.blocks.items() for v in block}
    assert abs(len(grown) - scale) <= 7
    assert nx.utils.edges_equal({(owner[u], owner[v]) for u, v in grown.edges}, set(THEME.edges))
    assert {grown.get_layer(v) for v in family.blocks[5]} == {THEME.get_layer(5)}
    assert grown.number_of_edges() == sum(len(family.blocks[u]) * len(family.blocks[v]) for u, v in THEME.edges)
    more = family.grow(scale)  # grows on
    assert abs(len(more) - 2 * scale) <= 14
    assert more.number_of_edges() == sum(len(family.blocks[u]) * len(family.blocks[v]) for u, v in THEME.edges)


def test_networks_of_a_theme() -> None:
    shares = {v: 0.4 if v == 3 else 0.1 for v in THEME}
    family = ScalableDAN(THEME, shares)
    model, graph = family.build((4, 2), 3, 100, return_graph=True)
    assert model.use_layer_norm
    assert model(torch.randn(5, 4, 2)).shape == (5, 3)
    assert nx.is_isomorphic(nx.DiGraph(model.generate_structure()), nx.DiGraph(graph))
    assert len(graph) == 100
    assert family.build(8, 3, 50, use_layer_norm=False, skips="sum").skips == "sum"
    assert not ScalableDAN.model(8, 3, graph, use_layer_norm=False).use_layer_norm
    with pytest.raises(InputError, match="add up to one"):
        ScalableDAN(THEME, dict.fromkeys(THEME, 0.5))
    with pytest.raises(InputError, match="one share for each vertex"):
        ScalableDAN(THEME, {0: 1.0})
    with pytest.raises(InputError, match="scale=0"):
        family.grow(0)


def test_feed_forward_families() -> None:
    family = ScalableDeepFFN([0.5, 0.29, 0.21])
    assert family.draw(100) == [50, 29, 21]
    assert family.draw(1) == [1, 1, 1]
    assert str(family) == "[50, 29, 21]"
    assert family.build((2, 2), 3, 1000).hidden_sizes == [500, 290, 210]
    assert family == ScalableDeepFFN([0.49, 0.3, 0.21])
    assert family != ScalableDeepFFN([0.1, 0.1, 0.8])
    assert family != ScalableDeepFFN([0.9, 0.1])
    assert family.entropy_similarity(family) == 0
    family.entropy_similarity_epsilon = 1e-6
    assert family != ScalableDeepFFN([0.49, 0.3, 0.21])
    family.precision = 1
    assert family.draw(10) == [5, 3, 2]
    for bad in ([], [0.5, 0.6], [1.5, -0.5]):
        with pytest.raises(InputError, match="add up to one"):
            ScalableDeepFFN(bad)


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_data_sets(tmp_path) -> None:
    data = FunctionalDataset(double, 20, (2, 3), lambda: np.random.rand(6))
    x, y = data[-1]
    assert x.shape == (2, 3)
    assert torch.equal(y, 2 * x)
    assert torch.equal(data[19][0], x)
    with pytest.raises(IndexError):
        data[20]
    data.save(tmp_path / "points")
    again = FuncDataset.load(tmp_path / "points")
    assert len(again) == 20
    assert all(torch.equal(a, b) for k in range(20) for a, b in zip(again[k], data[k], strict=True))
    with pytest.raises(InputError, match="no sampler"):
        again.sample()
    data.generate()
    assert not torch.equal(data[0][0], again[0][0])
    with pytest.raises(InputError, match="no points"):
        FuncDataset(double, 3, (1,))[0]
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        FuncDataset(double, 3, (3,), lambda: [1.0, 2.0])
    for arguments in (("f", 3, (1,)), (double, 0, (1,)), (double, 3, None)):
        with pytest.raises(InputError):
            FuncDataset(*arguments)


class Trap:
    def __reduce__(self):
        return (eval, ("1 / 0",))


def test_pickles_are_read_on_request_only(tmp_path) -> None:
    old = tmp_path / "old.pickle"
    points = [(torch.ones(2) * k, np.array([k])) for k in range(3)]
    old.write_bytes(pickle.dumps({"size": 3, "shape_input": (2,), "data": points}))
    with pytest.raises(InputError, match="allow_pickle=True"):
        FuncDataset.load(old)
    data = FuncDataset.load(old, allow_pickle=True)
    assert torch.equal(data[2][0], torch.full((2,), 2.0))
    old.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="allow_pickle=True"):
        FuncDataset.load(old)  # and nothing ran
    for content in (b"", b"PKxx", b"text"):
        old.write_bytes(content)
        with pytest.raises(InputError):
            FuncDataset.load(old)
    with pytest.raises(InputError):
        FuncDataset.load(tmp_path / "missing")


def test_linear_functors() -> None:
    layer = MaskedLinearLayer(3, 2)
    layer.mask[0, 1] = False
    graph = LinearLayerFunctor().transform(layer)
    assert isinstance(graph, LabeledDAG)
    assert set(graph.edges) == {(0, 3), (2, 3), (0, 4), (1, 4), (2, 4)}
    assert (graph.first_layer_size, graph.last_layer_size) == (3, 2)
    assert LinearLayerFunctor(threshold=100.0).transform(layer).number_of_edges() == 0
    assert layer.mask.sum() == 5  # left as it was
    dense = nn.Linear(3, 2)
    assert LinearLayerFunctor(0.0).transform(dense).number_of_edges() == 6
    with pytest.raises(InputError, match="threshold"):
        LinearLayerFunctor().transform(dense)
    with pytest.raises(InputError, match="Conv2d"):
        LinearLayerFunctor().transform(nn.Conv2d(1, 1, 1))
    assert LinearLayerFunctor().applies(layer)
    assert not LinearLayerFunctor().applies(nn.ReLU())
    with pytest.raises(NotImplementedError):
        ForgetfulFunctor().transform(dense)


def test_convolution_functor() -> None:
    functor = Conv2dLayerFunctor(input_width=5, input_height=4)
    graph = functor.transform(nn.Conv2d(2, 3, 3, padding=1, dilation=1, stride=2))
    assert (graph.first_layer_size, graph.last_layer_size) == (2 * 5 * 4, 3 * 2 * 3)
    taps_rows, taps_cols = [2, 3], [2, 3, 2]
    assert graph.number_of_edges() == 2 * 3 * sum(taps_rows) * sum(taps_cols)
    functor.width = functor.height = 3
    assert functor.transform(nn.Conv2d(1, 1, 3)).number_of_edges() == 9
    with pytest.raises(InputError, match="input_height=0"):
        Conv2dLayerFunctor().transform(nn.Conv2d(1, 1, 1))
    with pytest.raises(InputError, match="width=0"):
        functor.width = 0


@pytest.mark.parametrize("order", ["zeroth", "first", "second", "third"])
def test_graph_transform_is_extraction(order: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.zeros(1, 4)
    graph, wanted = GraphTransform(x, order).transform(model), deepstruct.extract(model, x, order=order)
    assert (len(graph), graph.number_of_edges()) == (wanted.num_nodes, wanted.num_edges)
    if order == "zeroth":
        assert [graph.get_layer_size(k) for k in graph.layers] == [4, 3, 2]
    with pytest.raises(InputError, match="expected a tensor"):
        GraphTransform("x")


def test_message_exchange_networks() -> None:
    ring = relational_graph(64, 8, 0.0)
    model = message_exchange_mlp(10, 3, [512, 512, 256], ring)
    assert [layer.mask.float().mean().item() for layer in model._linear()] == [1, 0.140625, 0.140625, 1]
    assert model(torch.randn(2, 10)).shape == (2, 3)
    with pytest.raises(InputError, match="64 vertices"):
        message_exchange_mlp(10, 3, [512, 32], ring)


def test_helpers() -> None:
    model = MaskedDeepFFN(3, 2, [4, 4])
    model._layer_first.mask[0] = False
    assert util.get_layer_count(model) == 3
    assert util.get_weight_distribution(model).shape == (3 * 3 + 16 + 8,)
    assert util.get_filtered_saliency([1, 2, 3], [1, 0, 1]) == (1, 3)
    assert util.entropy([1, 1, 2, 2], base=2) == pytest.approx(1)
    assert util.entropy([1, 1]) == 0
    assert util.kullback_leibler([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert util.kullback_leibler([0.5, 0.5], [1, 0]) == math.inf
    assert util.kullback_leibler([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
    with pytest.raises(InputError):
        util.kullback_leibler([1], [0.5, 0.5])
