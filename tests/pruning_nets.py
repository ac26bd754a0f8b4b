"""Networks that the pruning tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepstruct.sparse import MaskedConv2d, MaskedLinearLayer, SparseLinear


def lenet(kind: type[nn.Module] = nn.Linear) -> nn.Sequential:
    """784-300-100-10."""
    return nn.Sequential(kind(784, 300), nn.ReLU(), kind(300, 100), nn.ReLU(), kind(100, 10))


def small(kind: type[nn.Module] = nn.Linear) -> nn.Sequential:
    """8-12-10-4."""
    return nn.Sequential(kind(8, 12), nn.ReLU(), kind(12, 10), nn.ReLU(), kind(10, 4))


def sparse(density: float = 1.0) -> nn.Sequential:
    """The same of SparseLinear."""
    sizes = (8, 12), (12, 10), (10, 4)
    a, b, c = (SparseLinear(i, o, density=density) for i, o in sizes)
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c)


def convolutional(masked: bool = False) -> nn.Sequential:
    """A little convolutional network on (1, 2, 8, 8)."""
    conv = MaskedConv2d if masked else nn.Conv2d
    linear = MaskedLinearLayer if masked else nn.Linear
    return nn.Sequential(
        conv(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(6, 8, 3), nn.ReLU(), nn.Flatten(),
        linear(8 * 2 * 2, 5),
    )  # fmt: skip


class Tied(nn.Module):
    """An embedding and a linear head that share a weight (7 words, 5 features)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.body = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(self.embedding(words))))


class Recurrent(nn.Module):
    """An LSTM and a head on (batch, steps, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, after=None, steps: int = 5) -> None:
    """Some steps of cross entropy, `after` each."""
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if after is not None:
            after()
