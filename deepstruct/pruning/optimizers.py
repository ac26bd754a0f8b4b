"""What happens to the state of optimizers when connections come and go.

For every tensor of the parameter's shape that an optimizer keeps for it: zero where a connection was dropped or has
just grown, unchanged where it stays. Single numbers (step counts) stay. State of another shape has no rule: it is
refused, or forgotten where the caller says so. Without this, momentum would revive a dropped weight in one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from deepstruct.errors import InputError

Entry = tuple[dict[str, Any], str]


def as_list(optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None) -> list[torch.optim.Optimizer]:
    """None, one or several optimizers as a list."""
    if optimizer is None:
        return []
    found = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
    for one in found:
        if not isinstance(one, torch.optim.Optimizer):
            raise InputError(f"expected a torch.optim.Optimizer, got {type(one).__name__}")
    return found


def entries(optimizers: Iterable[torch.optim.Optimizer], parameter: Tensor, unknown: str = "raise") -> list[Entry]:
    """The entries of the optimizers' state for a parameter that are tensors with axes.

    Raises InputError for one of another shape than the parameter, unless `unknown` is "reset".
    """
    if unknown not in ("raise", "reset"):
        raise InputError(f"unknown_state={unknown!r}: choose 'raise' or 'reset'")
    found: list[Entry] = []
    for optimizer in optimizers:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.numel() == 1:
                continue
            if value.shape != parameter.shape and unknown == "raise":
                raise InputError(
                    f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for a weight of shape "
                    f"{tuple(parameter.shape)}: how it should follow the mask is not known. Pass "
                    "unknown_state='reset' to forget it where masks change"
                )
            found.append((state, name))
    return found


def align(found: Iterable[Entry], parameter: Tensor, kept: Tensor) -> None:
    """Apply the rule, in place: zero where `kept` is false; what has another shape is forgotten, with its twins."""
    for state, name in found:
        if name not in state:
            continue
        if state[name].shape == parameter.shape:
            with torch.no_grad():
                state[name].masked_fill_(~kept, 0)
        else:
            state.clear()
