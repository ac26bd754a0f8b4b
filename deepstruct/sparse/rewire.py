"""Moving connections: the new support, and what each of its values takes over from the old one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from deepstruct.errors import InputError


def changed_support(
    indices: Tensor, drop: Tensor | None, grow: Tensor | None, shape: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The support after dropping and growing, sorted by row and column.

    Returns its coordinates (2, n); `kept` (n), whether an entry was there before; and `source` (n), the
    position among the old values of those that were.
    """
    stays = torch.ones(indices.shape[1], dtype=torch.bool, device=indices.device)
    if drop is not None:
        stays[positions(drop, len(stays))] = False
    old = stays.nonzero().flatten()
    new = _coordinates(grow, shape, indices.device)
    flat = torch.cat([indices[0, old] * shape[1] + indices[1, old], new[0] * shape[1] + new[1]])
    flat, order = flat.sort()
    if bool((flat.diff() == 0).any()):
        raise InputError("grow names connections that exist already, or one of them twice")
    kept = order < len(old)
    source = torch.cat([old, torch.zeros_like(new[0])])[order]
    return torch.stack([flat // max(shape[1], 1), flat % max(shape[1], 1)]), kept, source


def carry_over(old: Tensor, kept: Tensor, source: Tensor) -> Tensor:
    """Old entries where there was one, zero elsewhere."""
    new = old.new_zeros(len(kept))
    new[kept] = old[source[kept]]
    return new


def follow_optimizers(
    optimizers: Iterable[torch.optim.Optimizer], parameter: Tensor
) -> list[tuple[dict[str, Any], str]]:
    """The entries of the optimizers' state that have one number per connection.

    Single numbers, such as step counts, stay as they are. Raises InputError when an optimizer does not hold
    the parameter, or keeps state of another shape, for which there is no rule.
    """
    found = []
    for optimizer in optimizers:
        if not any(p is parameter for group in optimizer.param_groups for p in group["params"]):
            raise InputError(f"this {type(optimizer).__name__} does not hold the layer's values")
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.dim() == 0:
                continue
            if value.shape != parameter.shape:
                raise InputError(
                    f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for "
                    f"{tuple(parameter.shape)} values: how it should follow them is not known"
                )
            found.append((state, name))
    return found


def positions(drop: Tensor, n: int) -> Tensor:
    """Which of n values to drop, as integers. Raises InputError for what names none of them."""
    if drop.dtype == torch.bool:
        if drop.shape != (n,):
            raise InputError(f"drop has shape {tuple(drop.shape)}, expected ({n},): one boolean per value")
        return drop.nonzero().flatten()
    if drop.dim() != 1 or drop.is_floating_point():
        raise InputError("drop is a boolean tensor, or integer positions among the values")
    if len(drop) and (int(drop.min()) < 0 or int(drop.max()) >= n):
        raise InputError(f"drop has positions outside 0 to {n - 1}")
    return drop.to(torch.int64)


def _coordinates(grow: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor:
    if grow is None:
        return torch.zeros(2, 0, dtype=torch.int64, device=device)
    if grow.dtype == torch.bool:
        if tuple(grow.shape) != shape:
            raise InputError(f"grow has shape {tuple(grow.shape)}, the weight {shape}")
        return torch.stack(grow.nonzero(as_tuple=True)).to(device)
    if grow.dim() != 2 or grow.shape[0] != 2 or grow.is_floating_point():
        raise InputError("grow is a boolean (out, in) tensor, or (2, n) integer coordinates")
    grow = grow.to(device, torch.int64)
    limits = torch.tensor(shape, device=device)[:, None]
    if bool(((grow < 0) | (grow >= limits)).any()):
        raise InputError(f"grow has coordinates outside {shape}")
    return grow
