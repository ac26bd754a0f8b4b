"""The networks that are measured: by number of edges (MLPs and CNNs), and the MLP that the targets speak of.

Needs torch alone: the processes of the peers build the same networks from here.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

FAMILIES = ("mlp", "cnn")
TARGET_MLP = (784, 1000, 500, 500, 200, 100, 10)
_OUTPUTS = 10
_CHUNK = 1 << 24
# side of the input image by power of ten of the number of edges; the number of channels makes up the rest
_SIDES = {3: 9, 4: 12, 5: 16, 6: 24, 7: 32, 8: 48, 9: 96, 10: 160}


class Net(NamedTuple):
    """One network: of a family, with about `size` edges after this share of its weights was set to zero."""

    family: str
    size: int
    sparsity: float


def mlp_width(edges: int, sparsity: float) -> int:
    """Width of the MLP with four layers, n-n-n-n-10, that has about so many edges."""
    wanted = edges / (1 - sparsity)
    return max(1, round((-_OUTPUTS + math.sqrt(_OUTPUTS**2 + 12 * wanted)) / 6))


def cnn_size(edges: int, sparsity: float) -> tuple[int, int]:
    """Side of the image and number of channels of the CNN that has about so many edges."""
    side = _SIDES[min(max(_SIDES), max(min(_SIDES), round(math.log10(edges))))]
    wanted = edges / (1 - sparsity)
    after = ((side - 2) - 3) // 2 + 1, ((side - 2) - 3) // 2 - 1  # sides behind the second and the third layer
    linear = 27 * (side - 2) ** 2 + 2 * _OUTPUTS * after[1] ** 2
    square = 18 * after[0] ** 2 + 36 * after[1] ** 2
    channels = (-linear + math.sqrt(linear**2 + 4 * square * wanted)) / (2 * square)
    return side, max(1, round(channels))


def num_weights(net: Net) -> int:
    """Stored weights, zeros included: what has to fit memory before anything is measured."""
    if net.family == "mlp":
        n = mlp_width(net.size, net.sparsity)
        return 3 * n * n + _OUTPUTS * n
    side, c = cnn_size(net.size, net.sparsity)
    last = ((side - 2) - 3) // 2 - 1
    return 27 * c + 18 * c * c + 36 * c * c + 2 * c * last * last * _OUTPUTS


def build(net: Net) -> tuple[nn.Sequential, Tensor]:
    """The model and an input, on the CPU, in evaluation mode. Deterministic.

    Convolutions are not padded: the original package drops taps in the right and bottom padding, and
    shall be given a network that it gets right.
    """
    with torch.device("meta"):
        if net.family == "mlp":
            n = mlp_width(net.size, net.sparsity)
            model, x = mlp((n, n, n, n, _OUTPUTS)), torch.zeros(1, n, device="cpu")
        elif net.family == "cnn":
            side, c = cnn_size(net.size, net.sparsity)
            model, x = _cnn(side, c), torch.zeros(1, 3, side, side, device="cpu")
        else:
            raise ValueError(f"family is {net.family!r}; choose from {', '.join(FAMILIES)}")
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    fill(model, net.sparsity)
    return model, x


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _cnn(side: int, channels: int) -> nn.Sequential:
    last = ((side - 2) - 3) // 2 - 1
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2), nn.ReLU(),
        nn.Conv2d(2 * channels, 2 * channels, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * channels * last * last, _OUTPUTS),
    )  # fmt: skip


def fill(model: nn.Module, sparsity: float) -> None:
    """Weights of magnitude 0.5 to 1.5 and random sign, of which a share is set to zero.

    No magnitude is near 0.01, below which the original package takes a weight for zero. Biases are zero, scales
    of norms are one.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() < 2:
                p.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            for part in p.view(-1).split(_CHUNK):  # in parts: the peak of memory shall be the model's own
                part.uniform_(-1, 1, generator=generator)
                part += 0.5 * part.sign()
                if sparsity:
                    part *= torch.rand(part.shape, generator=generator) >= sparsity
