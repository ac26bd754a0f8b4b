"""The networks of the benchmarks are of the size that they are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepstruct
from benchmarks.nets import FAMILIES, Net, build, fill, num_weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize("size", [10**4, 10**5])
def test_about_so_many_edges(family: str, size: int, sparsity: float) -> None:
    graph = deepstruct.extract(*build(Net(family, size, sparsity)))
    assert 0.5 * size < graph.num_edges < 2 * size
    assert graph.num_structural_edges == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_weights_are_foretold(family: str, sparsity: float) -> None:
    net = Net(family, 10**5, sparsity)
    model, _ = build(net)
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert num_weights(net) == sum(w.numel() for w in weights)
    values = torch.cat([w.reshape(-1) for w in weights])
    kept = values[values != 0].abs()
    assert kept.numel() == pytest.approx((1 - sparsity) * values.numel(), rel=0.05)
    assert kept.min() >= 0.5
    assert kept.max() <= 1.5


def test_the_same_network_every_time() -> None:
    first, second = (build(Net("cnn", 10**4, 0.5))[0] for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_scales_of_norms_stay_open() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    fill(model, 0.0)
    assert model[1].weight.tolist() == [1, 1]
    assert model[0].bias.tolist() == [0, 0]


def test_unknown_family() -> None:
    with pytest.raises(ValueError, match="choose from mlp, cnn"):
        build(Net("tree", 100, 0.0))
