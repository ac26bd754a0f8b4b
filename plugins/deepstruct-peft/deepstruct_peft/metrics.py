"""What adapters change, layer by layer: size, rank and new directions of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct_peft.adapters import adapts_weight, change, is_adapted

INTRUDERS = "Shuttleworth et al. 2024 (LoRA vs full fine-tuning: an illusion of equivalence)"
_SIMILAR = 0.5  # epsilon of the source: a new direction has no old one with a cosine above it
_TOP = 10  # singular vectors that are looked at


def _changes(view: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """path -> (weight, what the adapters add) of the adapted layers of the traced model."""
    origin = view.graph.context
    calls = getattr(getattr(origin, "trace", None), "calls", ())
    found = {c.path: c.module for c in calls if is_adapted(c.module) and adapts_weight(c.module)}
    if not found:
        raise MetricError("the model has no layer with adapters of peft")
    return {path: tuple(x.to(torch.float64) for x in change(module)) for path, module in found.items()}


def _per_layer(function: Callable[[Tensor, Tensor], float]) -> Callable[[Any], dict[str, float]]:
    return lambda view: {path: function(*pair) for path, pair in _changes(view).items()}


def relative_change(weight: Tensor, delta: Tensor) -> float:
    """Frobenius norm of the change over that of the weight."""
    return float(torch.linalg.norm(delta) / torch.linalg.norm(weight))


def rank(weight: Tensor, delta: Tensor) -> int:
    """Singular values of the change above 1e-5 of the weight's largest, since single precision ends there."""
    if not bool(delta.any()):
        return 0
    floor = 1e-6 * float(torch.linalg.norm(weight, 2))
    values = torch.linalg.svdvals(delta)
    return int((values > max(floor, 1e-5 * float(values[0]))).sum())


def intruder_dimensions(weight: Tensor, delta: Tensor) -> int:
    """Leading left singular vectors of the adapted weight that are like none of the weight's own."""
    before = torch.linalg.svd(weight, full_matrices=False).U
    after = torch.linalg.svd(weight + delta, full_matrices=False).U[:, :_TOP]
    return int(((before.T @ after).abs().max(0).values < _SIMILAR).sum())


def _metric(name: str, compute: Callable[[Tensor, Tensor], float], definition: str, source: str = "") -> Metric:
    return Metric(
        name, "operator", _per_layer(compute), scope="layer", orders=("zeroth",), definition=definition,
        source=source, default=False, bounds=(0, float("inf")),
    )  # fmt: skip


METRICS = [
    _metric("layer_adapter_change", relative_change, "||W' - W||_F / ||W||_F of the adapted weight W' and its base W."),
    _metric("layer_adapter_rank", rank, "Rank of W' - W: singular values above 1e-5 of its largest and 1e-6 of ||W||."),
    _metric(
        "layer_intruder_dimensions", intruder_dimensions,
        "Of the ten leading left singular vectors of W', those with |cosine| < 0.5 to every one of W.", INTRUDERS,
    ),
]  # fmt: skip
