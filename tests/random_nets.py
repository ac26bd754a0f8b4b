"""Small random networks, by seed: convolutions, skips, concatenation, gates, attention, recurrence, pruning."""

from __future__ import annotations

import random

import torch
from torch import nn


class ConvNet(nn.Module):
    """A random acyclic graph of small convolutional blocks with a linear head."""

    def __init__(self, rng: random.Random, sides: tuple[int, int, int] = (5, 6, 7)) -> None:
        super().__init__()
        self.plan: list[tuple[str, int, int]] = []
        self.blocks = nn.ModuleDict()
        size, channels = rng.choice(sides), rng.choice([1, 2, 3])
        self.input_shape = (1, channels, size, size)
        shapes = [(channels, size)]
        for k in range(rng.randint(2, 5)):
            source = rng.randrange(max(0, len(shapes) - 2), len(shapes))
            width, side = shapes[source]
            choice = rng.choice(["conv", "conv", "depthwise", "pool", "up", "add", "cat", "gate", "norm"])
            if choice in ("add", "gate"):
                partners = [i for i, s in enumerate(shapes) if s == shapes[source] and i != source]
                if partners:
                    self.plan.append((choice, source, rng.choice(partners)))
                    shapes.append(shapes[source])
                    continue
                choice = "conv"
            if choice == "cat":
                partners = [i for i, s in enumerate(shapes) if s[1] == side and i != source]
                if partners:
                    other = rng.choice(partners)
                    self.plan.append(("cat", source, other))
                    shapes.append((width + shapes[other][0], side))
                    continue
                choice = "conv"
            block, shape = self._block(choice, rng, width, side)
            self.blocks[str(k)] = block
            self.plan.append((str(k), source, source))
            shapes.append(shape)
        width, side = shapes[-1]
        self.head = nn.Linear(width * side * side, rng.choice([1, 2, 3]))

    @staticmethod
    def _block(choice: str, rng: random.Random, width: int, side: int) -> tuple[nn.Module, tuple[int, int]]:
        if choice == "pool" and side >= 2:
            kind = rng.choice([nn.MaxPool2d, nn.AvgPool2d])
            return kind(2, stride=1), (width, side - 1)
        if choice == "up" and 2 <= side <= 5:
            return nn.ConvTranspose2d(width, 2, 2, stride=2, padding=1), (2, 2 * side - 2)
        if choice == "depthwise":
            return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Tanh()), (width, side)
        if choice == "norm":
            return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()), (width, side)
        out, dilation = rng.choice([2, 3, width]), rng.choice([1, 1, 2])
        stride = rng.choice([1, 1, 2]) if side >= 4 else 1
        conv = nn.Conv2d(width, out, 3, stride=stride, padding=dilation, dilation=dilation)
        return nn.Sequential(conv, rng.choice([nn.ReLU(), nn.SiLU(), nn.Identity()])), (out, (side - 1) // stride + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for step, a, b in self.plan:
            if step == "add":
                values.append(values[a] + values[b])
            elif step == "gate":
                values.append(values[a] * torch.sigmoid(values[b]))
            elif step == "cat":
                values.append(torch.cat([values[a], values[b]], 1))
            else:
                values.append(self.blocks[step](values[a]))
        return self.head(values[-1].flatten(1))


class SequenceNet(nn.Module):
    """Attention or a recurrent layer between linear layers, with a skip."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        width, self.kind = rng.choice([4, 6]), rng.choice(["attention", "causal", "lstm", "gru", "rnn"])
        length, features = rng.choice([2, 3, 4]), rng.choice([2, 3])
        self.input_shape = (1, length, features)
        self.start = nn.Linear(features, width)
        if self.kind in ("attention", "causal"):
            self.body: nn.Module = nn.MultiheadAttention(width, 2, batch_first=True)
        else:
            cell = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[self.kind]
            self.body = cell(width, width, batch_first=True, num_layers=rng.choice([1, 2]))
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.start(x)
        if self.kind in ("attention", "causal"):
            mask = None
            if self.kind == "causal":
                mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            out = self.body(h, h, h, need_weights=False, attn_mask=mask)[0]
        else:
            out = self.body(h)[0]
        return self.head(h + out)


def random_net(seed: int, sides: tuple[int, int, int] = (5, 6, 7)) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode and an input for it; some weights are pruned to zero.

    Args:
        sides: of the images that a convolutional network may take.
    """
    rng = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: ConvNet | SequenceNet = SequenceNet(rng) if rng.random() < 0.35 else ConvNet(rng, sides)
        if rng.random() < 0.6:
            keep = rng.choice([0.15, 0.4, 0.7])
            with torch.no_grad():
                for parameter in net.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(torch.rand_like(parameter) < keep)
        return net.eval(), torch.randn(net.input_shape)
