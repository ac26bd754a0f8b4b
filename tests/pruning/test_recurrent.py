"""Masked recurrent models under plans and rewiring: their own masks are used."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from deepstruct import pruning as P
from deepstruct.recurrent import MaskedDeepRNN, MaskedGRULayer, MaskedLSTMLayer, MaskedRecurrentLayer

LAYERS = [MaskedRecurrentLayer, MaskedGRULayer, MaskedLSTMLayer]
each_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)


class Reader(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.rnn = MaskedDeepRNN(3, [6, 5], kind, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x))


@each_layer
def test_masks_are_those_of_the_layers(kind) -> None:
    model, x = Reader(kind), torch.randn(4, 7, 3)
    P.prune(model, P.Magnitude(), 0.3, P.Layer(), only="rnn.*")
    masks = P.get_masks(model)
    layer = model.rnn.recurrent_layers[1]
    assert torch.equal(masks["rnn._recurrent_layers.1._weight_hh"], layer.h2h_mask)
    assert not any("parametrizations" in key for key in model.state_dict())
    for name, mask in masks.items():
        assert int(mask.sum()) == (mask.numel() if name == "head.weight" else round(0.3 * mask.numel()))
    plain = P.bake(model)
    torch.testing.assert_close(plain(x), model(x))
    assert bool(plain.rnn.recurrent_layers[0].h2h_mask.all())
    assert not bool(layer.h2h_mask.all())
    state = P.dense_state_dict(model)
    assert not any("mask" in key for key in state)
    other = Reader(kind)
    P.set_masks(other, masks)
    P.load_dense(other, state)
    torch.testing.assert_close(other(x), model(x))


@each_layer
def test_dense_gradients_include_absent_connections(kind) -> None:
    model, x = Reader(kind), torch.randn(4, 7, 3)
    P.prune(model, P.Random(), 0.2, P.Layer(), only="rnn.*")
    for layer in model.rnn.recurrent_layers:
        layer.backend = "sparse"
    dense = P.bake(model)
    targets = P.find_targets(model, only="rnn.*")
    for target in targets.values():
        target.watch(True)
    for net in (model, dense):
        for _ in range(2):
            net(x).square().sum().backward()
    for name, target in targets.items():
        torch.testing.assert_close(target.gradient(), dense.get_parameter(name).grad)
    copied = copy.deepcopy(model)
    for target in targets.values():
        target.watch(False)
        assert target.gradient() is None
    assert model.rnn.recurrent_layers[0].gradients is None
    assert copied.rnn.recurrent_layers[0].gradients is not None


@each_layer
def test_rewiring_keeps_densities_and_states(kind) -> None:
    model, x = Reader(kind), torch.randn(16, 7, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with P.RigL(0.3, end=20, every=4).attach(model, optimizer) as session:
        before = {name: int(mask.sum()) for name, mask in P.get_masks(model).items()}
        first = P.get_masks(model)
        for _ in range(12):
            optimizer.zero_grad()
            (model(x) - x[:, 0, :2]).square().mean().backward()
            optimizer.step()
            session.step()
    after = P.get_masks(model)
    assert {name: int(mask.sum()) for name, mask in after.items()} == before
    name = "rnn._recurrent_layers.0._weight_hh"
    assert not torch.equal(after[name], first[name])
    state = optimizer.state[model.get_parameter(name)]
    assert not state["exp_avg"][~after[name]].any()
    assert not model.get_parameter(name)[~after[name]].any()
