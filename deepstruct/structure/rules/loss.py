"""Losses that a model computes by itself: one term per element, and their sum."""

from __future__ import annotations

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()

# position of the argument "reduction" (0: none, 1: mean, 2: sum)
_REDUCTION = {
    "mse_loss": 2, "smooth_l1_loss": 2, "huber_loss": 2, "soft_margin_loss": 2, "binary_cross_entropy": 3,
    "binary_cross_entropy_with_logits": 4,
}  # fmt: skip


@rules.op(*_REDUCTION)
def elementwise_loss(b: Builder, node: Node) -> Signal:
    """A term for each element of prediction and target."""
    parts = [a.signal for a in node.args[:2] if isinstance(a, Arg) and a.signal is not None]
    terms = (b.merge(parts) if len(parts) > 1 else parts[0]).curved()
    if node.arg(_REDUCTION[node.name], "reduction", 1) == 0:
        return terms
    return b.reduce(terms, range(len(terms.shape)), additive=True).mapped(lambda t: t.reshape(()))


@rules.op("nll_loss_forward", "nll_loss2d_forward")
def nll_loss(b: Builder, node: Node) -> list[Signal | None]:
    """The log-probabilities of the targets, and their sum."""
    x, target = node.arg(0, "self").signal, node.arg(1, "target").tensor()
    if x is None:
        return [None, None]
    axis = 0 if len(x.shape) == 1 else 1
    counted = target != node.arg(4, "ignore_index", -100)
    at = target.where(counted, torch.zeros_like(target)).unsqueeze(axis)
    picked = x.mapped(lambda t: t.gather(axis, at).squeeze(axis)).filled(~counted, -2)
    if node.arg(3, "reduction", 1) == 0:
        return [picked, None]
    return [b.reduce(picked, range(len(picked.shape)), additive=True).mapped(lambda t: t.reshape(())), None]
