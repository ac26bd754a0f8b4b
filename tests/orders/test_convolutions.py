"""Channels of convolutions: padded signals, groups, and which axis of an input is the channel axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import deepstruct
from deepstruct.structure.orders import pairs
from tests.orders.test_quotient import check_tower


class Padded(nn.Module):
    """A convolution of something that was padded before: its operand has elements without a unit."""

    def __init__(self, conv, pads):
        super().__init__()
        self.before, self.conv, self.pads = nn.Conv2d(2, 4, 3, padding=1), conv, pads

    def forward(self, x):
        return self.conv(F.pad(self.before(x).relu(), self.pads))


CONVOLUTIONS = [
    nn.Conv2d(4, 3, 3),
    nn.Conv2d(4, 3, (1, 3), stride=2, padding=1),
    nn.Conv2d(4, 6, 3, groups=2, dilation=2),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1),
    nn.ConvTranspose2d(4, 6, 3, groups=2, output_padding=1, stride=2),
]


@pytest.mark.parametrize("pads", [(1, 2, 0, 3), (4, 0, 4, 4)])
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_padded_signals(conv, pads, monkeypatch):
    graph = deepstruct.extract(Padded(conv, pads), torch.randn(1, 2, 5, 6))
    check_tower(graph)
    # nothing is written down edge by edge on the way
    monkeypatch.setattr(pairs, "_explicit", None)
    assert graph.quotient("first").num_edges > 0


def test_channels_that_are_padded_differently():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.conv = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)

        def forward(self, x):
            y = self.before(x)
            return self.conv(torch.cat([F.pad(y[:, :2], (1, 0)), F.pad(y[:, 2:], (0, 1))], 1))

    check_tower(deepstruct.extract(Shifted(), torch.randn(1, 2, 5, 6)))


class Convolved(nn.Module):
    def __init__(self, conv, turn):
        super().__init__()
        self.conv, self.turn = conv, turn

    def forward(self, x):
        return self.conv(self.turn(x))


@pytest.mark.parametrize(
    ("conv", "turn", "shape", "channels"),
    [
        (nn.Conv2d(3, 5, 3), lambda x: x, (1, 3, 9, 9), 3),
        (nn.Conv2d(3, 5, 3), lambda x: x, (3, 9, 9), 3),
        (nn.Conv2d(3, 5, 3), lambda x: x.permute(0, 3, 1, 2), (1, 9, 9, 3), 3),
        (nn.Conv2d(3, 5, 3), lambda x: x[:, 1:4], (1, 5, 9, 9), 5),
        (nn.Conv1d(1, 5, 3), lambda x: x[:, None], (1, 20), 1),
        (nn.Conv1d(1, 5, 3), lambda x: F.pad(x, (1, 1)), (1, 20), 1),
        (nn.Conv1d(6, 5, 3), lambda x: x.transpose(1, 2), (1, 6, 6), 6),
        (nn.Linear(4, 5), lambda x: x, (1, 3, 4), 4),
        (nn.Flatten(), lambda x: x * x.sum(), (1, 3, 4, 4), 3),
    ],
)
def test_the_channels_of_an_input(conv, turn, shape, channels):
    graph = deepstruct.extract(Convolved(conv, turn), torch.randn(shape), order="first")
    assert graph.spaces[0].numel == channels
