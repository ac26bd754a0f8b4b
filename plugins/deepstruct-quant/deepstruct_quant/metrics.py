"""How many different values the weights of a layer take, and how many bits they carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric


def _weights(view: Any) -> dict[str, Tensor]:
    """Operator name -> stored weights, of operators whose weights have values."""
    found = {
        op.name: op.weight.tensor
        for op in view.graph.operators
        if op.weighted and op.weight is not None and not op.weight.tensor.is_meta and op.weight.tensor.numel()
    }
    if not found:
        raise MetricError("the model has no stored weights")
    return found


def _per_layer(function: Callable[[Tensor], float]) -> Callable[[Any], dict[str, float]]:
    return lambda view: {name: function(weight) for name, weight in _weights(view).items()}


def levels(weight: Tensor) -> int:
    """Number of different values, zero among them."""
    return int(weight.unique().numel())


def entropy(weight: Tensor) -> float:
    """Shannon entropy of the values, in bits for each weight: what the best code without context needs."""
    counts = weight.unique(return_counts=True)[1].to(torch.float64)
    shares = counts / counts.sum()
    return max(0.0, float(-(shares * shares.log2()).sum()))


METRICS = [
    Metric(
        "layer_weight_levels", "operator", _per_layer(levels), scope="layer", orders=("zeroth",), default=False,
        definition="Number of different values that the stored weights of a layer take, zero among them.",
        bounds=(1, float("inf")),
    ),
    Metric(
        "layer_weight_entropy", "operator", _per_layer(entropy), scope="layer", orders=("zeroth",), default=False,
        definition="Shannon entropy of the values of the stored weights of a layer, in bits for each weight.",
        source="Shannon 1948", bounds=(0, 64),
    ),
]  # fmt: skip
