"""Small numbers about models and distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import nn


def get_layer_count(network: nn.Module) -> int:
    """Number of masked layers, at any depth."""
    from deepstruct.sparse import maskable_layers

    return sum(1 for _ in maskable_layers(network))


def get_weight_distribution(network: nn.Module) -> np.ndarray:
    """All weights that are not masked, one flat array, layer by layer."""
    from deepstruct.sparse import maskable_layers

    parts = [layer.weight.detach()[layer.mask].cpu().numpy() for layer in maskable_layers(network)]
    return np.concatenate(parts) if parts else np.zeros(0)


def get_filtered_saliency(saliency: Sequence[Any], mask: Sequence[Any]) -> tuple[Any, ...]:
    """The entries of a list where the mask is 1."""
    return tuple(value for value, keep in zip(saliency, mask, strict=True) if keep == 1)


def entropy(labels: ArrayLike, base: float | None = None) -> float:
    """Shannon entropy of the labels' frequencies, in nats or to another base."""
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(math.e if base is None else base)) + 0.0


def kullback_leibler(a: ArrayLike, b: ArrayLike) -> float:
    """Sum of a log(a / b) in nats, where a is not 0; infinite where b is 0 and a is not."""
    p, q = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if p.shape != q.shape:
        raise InputError(f"distributions of different shapes: {p.shape} and {q.shape}")
    some = p != 0
    if (q[some] == 0).any():
        return math.inf
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
