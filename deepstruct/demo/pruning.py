"""Global magnitude pruning with masks that training respects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError

Masks = dict[str, Tensor]
"""Name of a weight to its mask, True where the weight may differ from zero."""


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights of linear and convolutional layers by name; biases and norms are never pruned."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }


def full_masks(model: nn.Module) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}


def prune_to(model: nn.Module, masks: Masks, density: float) -> Masks:
    """Masks that keep the share `density` of all weights, the largest by magnitude among those left.

    What was pruned stays pruned. Raises InputError when `density` is not in (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise InputError(f"density is {density}, where a share in (0, 1] is expected")
    weights = prunable(model)
    scores = torch.cat([(weights[name].detach().abs() * masks[name]).flatten() for name in masks])
    keep = min(max(1, round(density * scores.numel())), int(sum(int(m.sum()) for m in masks.values())))
    # topk keeps exactly as many as asked for, also among equal magnitudes; a threshold would not.
    kept = torch.zeros(scores.numel(), dtype=torch.bool)
    kept[torch.topk(scores, keep).indices] = True
    parts = kept.split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(mask) & mask for (name, mask), part in zip(masks.items(), parts, strict=True)}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the weights that masks remove to zero."""
    for name, weight in prunable(model).items():
        weight.mul_(masks[name])


def densities(steps: int, final: float) -> list[float]:
    """`steps` + 1 densities from 1 to `final`, each the same fraction of the one before."""
    return [final ** (step / steps) for step in range(steps + 1)]
