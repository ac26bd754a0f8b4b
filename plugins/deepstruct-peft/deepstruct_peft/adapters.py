"""Looking at an adapted layer: its base layer, and the weight that base and adapters make together."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn


def is_adapted(module: Any) -> bool:
    """Whether a module is a layer that peft has put adapters on."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    return tuners is not None and isinstance(module, tuners.BaseTunerLayer)


def base_of(module: Any) -> nn.Module:
    """The layer underneath, which holds the merged weight when adapters are merged."""
    return module.get_base_layer()


def adapts_weight(module: Any) -> bool:
    """Whether base and adapters make one weight of a Linear or Conv2d, held as plain floating numbers."""
    base = base_of(module)
    weight = getattr(base, "weight", None)
    return (
        isinstance(base, (nn.Linear, nn.Conv1d, nn.Conv2d))
        and type(weight) in (nn.Parameter, Tensor)
        and weight.dtype.is_floating_point
        and hasattr(module, "merge")
    )


def effective_weight(module: Any) -> Tensor:
    """The weight of the merged layer, computed by peft's own `merge` on a copy: base shape, no gradient.

    Adapters that are switched off (`disable_adapters`) or merged already leave the base weight.
    """
    base = base_of(module)
    if module.merged or module.disable_adapters or not module.active_adapters:
        return base.weight.detach()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of merging, which happens to a copy
        twin = copy.deepcopy(module)
        twin.merge(safe_merge=False)
        return base_of(twin).weight.detach()


def change(module: Any) -> tuple[Tensor, Tensor]:
    """(weight without adapters, what the adapters add), as matrices of shape (outputs, rest)."""
    base = base_of(module)
    if module.merged:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin = copy.deepcopy(module)
            twin.unmerge()
        before, after = base_of(twin).weight.detach(), base.weight.detach()
    else:
        before, after = base.weight.detach(), effective_weight(module)
    flat = before.reshape(before.shape[0], -1)
    return flat, after.reshape(flat.shape) - flat
