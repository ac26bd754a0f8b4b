"""Really smaller models with equal outputs; masks that expand; the names of earlier versions."""

from __future__ import annotations

import pytest
import torch
from pruning_nets import Recurrent, convolutional, lenet, small, sparse
from torch import Tensor, nn

import deepstruct
from deepstruct import pruning as P
from deepstruct.errors import InputError, StructureError
from deepstruct.graph import ramanujan_bipartite
from deepstruct.sparse import MaskedLinearLayer


def size(model):
    return sum(p.numel() for p in model.parameters())


class Residual(nn.Module):
    """Blocks with skips, batch norm, concatenation and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.a = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.b = nn.Conv2d(6, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.c = nn.Conv2d(16, 5, 3)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.b(self.a(x))
        x = torch.cat([torch.relu(x), self.depth(x)], 1)
        x = torch.relu(self.c(x)).mean((2, 3))
        return self.head(self.norm(x))


def mask_rows(model, rows):
    masks = P.get_masks(model)
    for name, gone in rows.items():
        masks[name][gone] = False
    P.set_masks(model, masks)


def settle(model):
    """Statistics of batch norms that are not those they begin with."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return model.eval()


@pytest.mark.parametrize("make", [lambda: small(), lambda: small(MaskedLinearLayer), lambda: sparse()])
def test_linear_units(make) -> None:
    model, x = make(), torch.randn(7, 8)
    mask_rows(model, {"0.weight": [1, 5, 6], "2.weight": [0]})
    masks = P.get_masks(model)
    masks["4.weight"][:, 3] = False  # a unit that nobody reads
    P.set_masks(model, masks)
    found = P.shrink(model)
    assert [tuple(p.shape) for p in found.parameters() if p.dim() > 1] == [(9, 8), (8, 9), (4, 8)]
    torch.testing.assert_close(found(x), model(x), atol=1e-6, rtol=1e-5)


def test_flattened_channels() -> None:
    model, x = convolutional(), torch.randn(3, 2, 8, 8)
    with torch.no_grad():
        model[0].bias.zero_()
    mask_rows(model, {"0.weight": [0, 4], "3.weight": [2, 3, 7]})
    found = P.shrink(model, x[:1])
    assert [tuple(p.shape) for p in found.parameters() if p.dim() > 1] == [(4, 2, 3, 3), (5, 4, 3, 3), (5, 20)]
    torch.testing.assert_close(found(x), model(x), atol=1e-5, rtol=1e-4)


def test_constants_move_into_biases_or_channels_stay() -> None:
    model, x = convolutional(), torch.randn(3, 2, 8, 8)
    mask_rows(model, {"0.weight": [0, 4]})
    with torch.no_grad():
        model[0].bias.fill_(0.7)  # without weights still 0.7, read by an unpadded convolution
    found = P.shrink(model, x[:1])
    assert found[0].out_channels == 4
    torch.testing.assert_close(found(x), model(x), atol=1e-5, rtol=1e-4)
    padded = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1))
    with torch.no_grad():
        padded[0].bias.fill_(0.7)
    mask_rows(padded, {"0.weight": [1]})
    assert P.shrink(padded, x[:1])[0].out_channels == 6  # at the rim it is not constant: no bias can stand for it


def test_residual_sums_concatenation_batch_norm_and_depthwise() -> None:
    model, x = settle(Residual()), torch.randn(3, 2, 7, 7)
    masks = P.get_masks(model)
    for name, rows in {"a.0.weight": [1, 2], "c.weight": [4], "stem.0.weight": [3, 6], "b.weight": [3]}.items():
        masks[name][rows] = False
    masks["c.weight"][:, [3, 11, 5, 13]] = False  # channels 3 and 5 of the sum, read twice
    masks["a.0.weight"][:, [3, 5]] = False
    P.set_masks(model, masks)
    found = P.shrink(model, x[:1])
    torch.testing.assert_close(found(x), model(x), atol=1e-4, rtol=1e-4)
    assert found.stem[0].out_channels == found.b.out_channels == found.depth.groups == 6
    assert found.stem[1].num_features == 6
    assert found.stem[2].num_parameters == 6
    assert found.c.in_channels == 12
    assert found.head.in_features == found.norm.num_features == 4
    assert size(found) < size(P.bake(model))


def test_a_channel_stays_while_one_summand_has_it() -> None:
    model, x = settle(Residual()), torch.randn(1, 2, 7, 7)
    mask_rows(model, {"b.weight": [0, 1]})  # the skip still brings these channels
    found = P.shrink(model, x)
    assert found.b.out_channels == 8


def test_after_pruning_channels() -> None:
    model, x = settle(Residual()), torch.randn(2, 2, 7, 7)
    P.prune(model, P.Magnitude(), 0.5, P.Channel(within=P.Global()), example_input=x[:1], skip="head")
    found = P.shrink(model, x[:1])
    torch.testing.assert_close(found(x), model(x), atol=1e-4, rtol=1e-4)
    assert size(found) < size(P.bake(model))
    assert not found.training
    found.train()(x).sum().backward()


def test_other_layers_are_left_alone() -> None:
    model, x = Recurrent(), torch.randn(2, 4, 3)
    P.prune(model, P.Magnitude(), 0.2)
    torch.testing.assert_close(P.shrink(model, x[:1])(x), model(x))


def test_everything_masked_leaves_one_unit() -> None:
    model, x = small(), torch.randn(3, 8)
    mask_rows(model, {"2.weight": list(range(10))})
    found = P.shrink(model)
    torch.testing.assert_close(found(x), model(x), atol=1e-6, rtol=1e-5)
    assert found[2].out_features == 1


def test_sizes_that_are_written_into_forward() -> None:
    class Rigid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(-1, 2, 3).reshape(-1, 6))

    model = Rigid()
    mask_rows(model, {"a.weight": [1]})
    with pytest.raises(StructureError, match="sizes written into it"):
        P.shrink(model, torch.randn(1, 4))


def test_expansion_of_masks() -> None:
    mask = torch.from_numpy(ramanujan_bipartite(40, 20, 4, seed=0))
    singular = torch.linalg.svdvals(mask.double())
    found = P.expansion({"w": mask})["w"]
    assert singular[1] <= 3**0.5 + 7**0.5
    assert found.ramanujan
    assert found.biregular
    assert found.edges == 160
    assert found.sigma2 == pytest.approx(float(singular[1]))
    assert found.sigma1 == pytest.approx(32**0.5)
    assert found.gap == pytest.approx(32**0.5 - float(singular[1]))
    two = torch.block_diag(torch.ones(6, 6), torch.ones(6, 6)).bool()
    assert not P.expansion({"w": two})["w"].ramanujan  # in two parts: no expansion at all
    assert not P.expansion({"w": torch.zeros(3, 4, dtype=torch.bool)})["w"].ramanujan
    with pytest.raises(InputError, match="single number"):
        P.expansion({"w": torch.tensor(True)})


def test_expansion_agrees_with_the_metric() -> None:
    model = small()
    P.prune(model, P.Random(), 0.6)
    report = deepstruct.analyze(P.bake(model), torch.randn(1, 8), orders="zeroth", metrics=["layer_ramanujan_r"])
    layers = list(next(row.value for row in report.rows if row.name == "layer_ramanujan_r").values())
    found = P.expansion(P.get_masks(model)).values()
    assert layers == pytest.approx([e.bound - e.sigma2 for e in found])


def test_ramanujan_masks_to_begin_with() -> None:
    model = lenet()
    with P.Rewire(P.Ramanujan(0.1)).attach(model) as session:
        assert session.history[0].grown == 0
    found = P.expansion(P.get_masks(model))
    assert found["2.weight"].ramanujan
    assert found["2.weight"].biregular
    assert found["2.weight"].edges / 30000 == pytest.approx(0.1, abs=0.02)
    assert session.density < 0.3


def test_names_of_earlier_versions() -> None:
    model = small(MaskedLinearLayer)
    P.strategy.AbsoluteThresholdStrategy(0.1).run(model)
    weights = [m.weight for m in model if isinstance(m, MaskedLinearLayer)]
    assert [int(m.mask.sum()) for m in model if hasattr(m, "mask")] == [int((w.abs() >= 0.1).sum()) for w in weights]
    assert P.util.get_network_weight_count(model) == sum(int((w != 0).sum()) for w in weights)
    model = small(MaskedLinearLayer)
    P.strategy.RelativeThresholdStrategy(0.25, layerwise=True).run(model)
    assert P.util.get_network_weight_count(model) == 72 + 90 + 30
    before = torch.cat([m.weight.detach()[m.mask].abs() for m in model if hasattr(m, "mask")]).sort().values
    P.strategy.BucketFillStrategy(0.5).run(model)
    left = P.util.get_network_weight_count(model)
    dropped = before[: len(before) - left]
    assert float(dropped.sum()) <= 0.5 < float(before[: len(dropped) + 1].sum())
    P.util.set_random_saliency(model)
    assert not bool(model[0].saliency[~model[0].mask].any())
    P.util.set_distributed_saliency(model)
    torch.testing.assert_close(model[2].saliency, model[2].weight.detach().abs() / model[2].weight.detach().std())
    masks = model[0].mask.clone()
    P.util.reset_pruned_network(model)
    assert torch.equal(model[0].mask, masks)
    P.util.keep_input_layerwise(model)
    model(torch.ones(1, 8))
    assert model[0].layer_input.shape == (1, 8)
    P.util.set_random_masks(model)
    assert 20 < int(model[0].mask.sum()) < 76
    assert P.engine.Engine(lambda net: P.util.get_network_weight_count(net)).run(model) > 0
