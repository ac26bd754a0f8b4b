"""Reads and writes through aliases, as pure functions.

Two tensors that share a storage are described by their geometry in it: (size, stride, offset), in
elements. `alias_read` says what a view with one geometry holds, given the values of a base with
another; `alias_write` says what the base holds after the view was overwritten. Both only re-index:
they work for every dtype (index tensors included), never look at the strides of their arguments,
and can be differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Ints = Sequence[int]


def _span(size: Ints, stride: Ints, offset: int) -> tuple[int, int]:
    """First and last address + 1 of a geometry; (0, 0) for an empty one."""
    if any(n == 0 for n in size):
        return 0, 0
    return offset, offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1


def covers(base: tuple[Ints, Ints, int], view: tuple[Ints, Ints, int]) -> bool:
    """Whether the address range of `view` lies within that of `base` (each a size, stride, offset)."""
    low, high = _span(*base)
    view_low, view_high = _span(*view)
    return view_low >= view_high or (low <= view_low and view_high <= high)


def _positions(of: tuple[Ints, Ints, int], at: tuple[Ints, Ints, int], device: torch.device) -> torch.Tensor:
    """For every element of geometry `at`: the flat position in `of` of the same address, or -1."""
    low = min(_span(*of)[0], _span(*at)[0])
    high = max(_span(*of)[1], _span(*at)[1])
    size, stride, offset = of
    where = torch.full((high - low,), -1, dtype=torch.int64, device=device)
    numel = 1
    for n in size:
        numel *= n
    if numel:
        flat = torch.arange(numel, dtype=torch.int64, device=device).reshape(tuple(size))
        for dim, step in enumerate(stride):
            if step == 0:  # expanded: all elements along it share one address
                flat = flat.narrow(dim, 0, 1)
        where.as_strided(flat.shape, tuple(stride), offset - low).copy_(flat)
    return where.as_strided(tuple(at[0]), tuple(at[1]), at[2] - low if where.numel() else 0)


def alias_read(
    base: torch.Tensor,
    base_size: Ints,
    base_stride: Ints,
    base_offset: int,
    size: Ints,
    stride: Ints,
    offset: int,
) -> torch.Tensor:
    """Values of the view (size, stride, offset) of a storage whose content is `base`.

    `base` has shape `base_size` and lies in the storage with `base_stride` and `base_offset`; its own
    strides do not matter. Addresses that the base does not cover read as zero.
    """
    if 0 in tuple(size):
        return base.new_zeros(tuple(size))
    index = _positions((base_size, base_stride, base_offset), (size, stride, offset), base.device)
    flat = base.reshape(-1)
    hole = index < 0
    if bool(hole.any()):
        if flat.numel() == 0:
            return base.new_zeros(tuple(size))
        values = flat[index.clamp(min=0)]
        return torch.where(hole, torch.zeros_like(values), values)
    return flat[index]


def alias_write(
    base: torch.Tensor,
    src: torch.Tensor,
    base_size: Ints,
    base_stride: Ints,
    base_offset: int,
    size: Ints,
    stride: Ints,
    offset: int,
) -> torch.Tensor:
    """`base` after `src` was written to the view (size, stride, offset) of its storage.

    Arguments as in `alias_read`; `src` has shape `size`. Returns a new tensor of shape `base_size`.
    """
    if 0 in tuple(size) or 0 in tuple(base_size):
        return base.clone()
    index = _positions((size, stride, offset), (base_size, base_stride, base_offset), base.device)
    values = src.reshape(-1)[index.clamp(min=0)]
    return torch.where(index < 0, base, values)
