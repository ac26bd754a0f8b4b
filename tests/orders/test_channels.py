"""Channels of sums in which an operand has no unit in places: tokens that are constants, margins of zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import deepstruct
from tests.orders.test_quotient import check_tower
from tests.structure.attention_nets import Vit


def sizes(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    return {space.name: space.numel for space in deepstruct.extract(model, x, order="first").spaces}


@pytest.mark.parametrize("fused", [True, False])
def test_a_class_token_adds_to_the_features_of_its_residuals(fused: bool) -> None:
    """As many channels as features in every residual, the row of the class token included."""
    model, x = Vit(fused=fused).eval(), torch.randn(1, 2, 4, 4)
    found = {name: n for name, n in sizes(model, x).items() if name.startswith("blocks")}
    residuals = [n for name, n in found.items() if name.partition("#")[0].count(".") == 1]
    assert residuals == [6, 6, 6, 6]
    check_tower(deepstruct.extract(model, x))


def test_a_class_token_of_torchvision() -> None:
    from tests.zoo.registry import require

    require("torchvision")
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(8, 4, 2, 2, 12, 16, num_classes=3).eval()
    found = sizes(model, torch.randn(1, 3, 8, 8))
    blocks = {name: name.partition("#")[0].rpartition(".")[2] for name in found}
    residuals = [n for name, n in found.items() if blocks[name].startswith("encoder_layer")]
    assert residuals == [12] * 4


class Padded(nn.Module):
    """A shortcut that pads the channels it lacks with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 7, 3, stride=2, padding=1)
        self.last = nn.Conv2d(7, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.wide(x).relu() + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)).sigmoid() * 2
        return self.last(y.relu())


class Framed(nn.Module):
    """A margin of zeros around one of two maps: beside them, the other names the channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(F.pad(self.a(x), (1, 1, 1, 1)) * self.b(x))


class Overlapping(nn.Module):
    """Two operands that meet in two of six features: each names the channels where it is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(self.a(x), (0, 2)).square() + F.pad(self.b(x), (2, 0)).square()


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [(Padded, (1, 3, 6, 6), 7), (Framed, (1, 2, 5, 5), 4), (Overlapping, (1, 3), 6)],
    ids=["padded shortcut", "margin", "overlapping"],
)
def test_where_an_operand_has_no_unit_the_others_name_the_channel(
    model: type[nn.Module], shape: tuple[int, ...], expected: int
) -> None:
    net, x = model().eval(), torch.randn(shape)
    graph = deepstruct.extract(net, x)
    merge = [s for s in deepstruct.extract(net, x, order="first").spaces if s.path == ""]
    assert [s.numel for s in merge if s.kind != "source"] == [expected]
    check_tower(graph)
