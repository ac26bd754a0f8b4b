"""Bad arguments of the masked and sparse layers, told apart before any kernel sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepstruct.errors import InputError

BACKENDS = ("auto", "dense", "sparse")


def check_backend(backend: str) -> str:
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}: choose one of {', '.join(BACKENDS)}")
    return backend


def check_mask(mask: Tensor, shape: Sequence[int], device: torch.device) -> None:
    """A mask is a boolean tensor of the weight's shape, on its device."""
    if not isinstance(mask, Tensor):
        raise InputError(f"a mask is a boolean tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise InputError(f"a mask is boolean, got {mask.dtype}: pass mask.bool() or mask != 0")
    if tuple(mask.shape) != tuple(shape):
        raise InputError(f"the mask has shape {tuple(mask.shape)}, the weight {tuple(shape)}")
    if mask.device != device:
        raise InputError(f"the mask is on {mask.device}, the weight on {device}: move one of them")


def check_input(x: Tensor, features: int, device: torch.device) -> None:
    """An input of a linear layer: floating point, its last axis as long as the layer expects, same device."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"the input is {kind}, expected a floating-point tensor")
    if x.dim() == 0 or x.shape[-1] != features:
        raise InputError(f"the input has shape {tuple(x.shape)}, expected {features} in its last axis")
    if x.device != device:
        raise InputError(f"the input is on {x.device}, the layer on {device}: move one of them")


def check_finite(weight: Tensor, what: str) -> None:
    """NaN has no magnitude to compare, and no place in a structure."""
    if bool(torch.isnan(weight).any()):
        raise InputError(
            f"{what} has NaN in {int(torch.isnan(weight).sum())} places: was training diverging?"
        )
