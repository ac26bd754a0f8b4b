"""The two networks of the demonstration, for images of 8 x 8 pixels in ten classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DigitsMLP(nn.Module):
    """64-128-64-10, with ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (batch, 10) of images (batch, 1, 8, 8)."""
        return self.layers(images)


class Residual(nn.Module):
    """Two 3 x 3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input."""
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(inner)))


class DigitsCNN(nn.Module):
    """A strided convolution, a residual block, a strided convolution, average pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.block = Residual(16)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(32)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (batch, 10) of images (batch, 1, 8, 8)."""
        x = torch.relu(self.stem_norm(self.stem(images)))
        x = self.block(x)
        x = torch.relu(self.down_norm(self.down(x)))
        return self.head(self.pool(x).flatten(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": DigitsMLP, "cnn": DigitsCNN}
"""By the name that stands in the names of checkpoint files."""

EXAMPLE_SHAPE = (1, 1, 8, 8)
