"""What an architecture of the zoo is, and helpers that its builders share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from tests.zoo_compat import declare_torchvision_ops

Built = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Architecture:
    """A recipe for a model in evaluation mode and an input for it.

    Args:
        library: what has to be importable; "" for torch alone.
        acyclic_first: whether the first order has no cycles (recurrent layers, where a channel reads
            channels of its own layer at the step before, have them).
        quotients: whether the orders are compared with brute force on the explicit graph.
        sample: whether the tests measure it too (of the wide zoo, the page on coverage has all).
        oracle: why the derivative cannot be compared ("" where it can).
    """

    name: str
    library: str
    build: Callable[[], Built] = field(repr=False)
    acyclic_first: bool = True
    quotients: bool = False
    sample: bool = False
    oracle: str = ""

    def __str__(self) -> str:
        return self.name

    def make(self) -> Built:
        """Model and input, the same at every call. Skips the test when the library is missing."""
        require(self.library)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, example = self.build()
        return model.eval(), example


def require(library: str) -> Any:
    """The library, or a visible skip. torchvision and timm need their operators declared beside a CPU torch."""
    if not library:
        return None
    declare_torchvision_ops()
    return pytest.importorskip(library, reason=f"{library} is not installed: no architectures of its own are built")


ZOO: list[Architecture] = []
"""Small models that every test of this folder builds."""

WIDE: list[Architecture] = []
"""What the page on coverage has beside them; the tests measure those with `sample`."""


def architecture(
    name: str, library: str = "", *, into: list[Architecture] = ZOO, **traits: Any
) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Registers a function that builds a model and an input for it."""

    def register(build: Callable[[], Built]) -> Callable[[], Built]:
        into.append(Architecture(name, library, build, **traits))
        return build

    return register


def image(size: int = 32, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, size, size)


def tokens(length: int = 6, vocabulary: int = 40) -> torch.Tensor:
    return torch.randint(3, vocabulary, (1, length))


def opened(model: nn.Module) -> nn.Module:
    """The model with random numbers where libraries put zeros: in heads, and in last norms of residual branches."""
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and not bool(weight.any()):
            nn.init.normal_(weight)
    return model
