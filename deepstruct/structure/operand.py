"""Which units an operator reads or writes: a strided view of the slots, or an index tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deepstruct.structure.scores import Scores

CONST = -1  # an element that no unit stands behind: a bias, a class token, a learned query
ZERO = -2  # an element that is exactly zero: padding, masked, multiplied by zero
MASKED = -3  # a score that was pushed to minus infinity, and becomes ZERO in the next softmax


@dataclass(frozen=True)
class Operand:
    """An array of slots: element e stands for slot `index[e]`, or for no unit where that is negative.

    Kept as (offset, stride) over the vector of all slots where the map is strided, which costs nothing;
    as an int64 tensor of its shape where it is not.

    The elements of implicit attention scores are carriers (`structure.scores`), and `scores` says which units
    they stand for; it is None for all other operands, whose elements are units themselves.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    offset: int = 0
    table: torch.Tensor | None = None
    scores: Scores | None = None

    @classmethod
    def strided(cls, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Operand:
        return cls(tuple(shape), tuple(stride), int(offset))

    @classmethod
    def carriers(cls, scores: Scores, offset: int) -> Operand:
        """The slots of implicit scores, (*lead, rows + columns)."""
        shape = (*scores.lead, scores.rows + scores.columns)
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(shape, stride, int(offset), None, scores)

    @classmethod
    def indexed(cls, table: torch.Tensor) -> Operand:
        return cls(tuple(table.shape), None, 0, table)

    @property
    def numel(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total

    @property
    def first_slot(self) -> int:
        """The lowest slot that it reads or writes; 0 where it has no unit at all."""
        return self.span()[0] if self.numel else self.offset

    def span(self) -> tuple[int, int]:
        """The lowest and the highest slot that it reads or writes; (0, -1) where it has no unit at all."""
        if self.numel == 0:
            return 0, -1
        if self.table is None:
            assert self.stride is not None
            return self.offset, self.offset + sum(
                step * (n - 1) for n, step in zip(self.shape, self.stride, strict=True)
            )
        units = self.table[self.table >= 0]
        return (int(units.min()), int(units.max())) if units.numel() else (0, -1)

    @property
    def injective(self) -> bool:
        """Whether no slot appears twice (certain for strides without overlap, unknown means False)."""
        if self.stride is None:
            return False
        extent = 1
        for n, step in sorted(zip(self.shape, self.stride, strict=True), key=lambda pair: pair[1]):
            if n == 1:
                continue
            if step < extent:
                return False
            extent = step * (n - 1) + extent
        return True

    @property
    def complete(self) -> bool:
        """Whether every element is a unit."""
        return self.table is None or not bool((self.table < 0).any())

    def index(self) -> torch.Tensor:
        """The map as an int64 tensor (materialised; negative where there is no unit)."""
        if self.table is not None:
            return self.table
        assert self.stride is not None
        index = torch.full((), self.offset, dtype=torch.int64)
        for axis, (n, step) in enumerate(zip(self.shape, self.stride, strict=True)):
            view = [1] * len(self.shape)
            view[axis] = n
            index = index + (torch.arange(n, dtype=torch.int64) * step).view(view)
        return index.expand(self.shape)

    def ones(self, dtype: torch.dtype) -> torch.Tensor:
        """The vector that is 1 on every unit: on carriers, 1 per row and nothing per column. A broadcast view."""
        one = torch.ones((), dtype=dtype)
        if self.scores is None:
            return one.expand(self.shape)
        return self.scores.joined(one, torch.zeros((), dtype=dtype))

    def valid(self) -> torch.Tensor | None:
        """Boolean tensor of elements that are units; None where all are."""
        if self.table is None:
            return None
        valid = self.table >= 0
        return None if bool(valid.all()) else valid

    def gather(self, slots: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """The values of `slots` (one per slot) at the elements; `fill` where there is no unit. May be a view."""
        if self.stride is not None:
            return torch.as_strided(slots, self.shape, self.stride, slots.storage_offset() + self.offset)
        assert self.table is not None
        if slots.numel() == 0:
            return torch.full(self.shape, fill, dtype=slots.dtype)
        values = slots[self.table.clamp(min=0)]
        return values.masked_fill_(self.table < 0, fill)

    def accumulate(self, slots: torch.Tensor, values: torch.Tensor) -> None:
        """slots[index] += values, element by element; elements without a unit are dropped."""
        if self.stride is not None:
            shape, stride = list(self.shape), list(self.stride)
            values = values.expand(self.shape)
            for axis, (n, step) in enumerate(zip(self.shape, self.stride, strict=True)):
                if step == 0 and n > 1:  # a broadcast axis: its elements are one slot
                    values = values.sum(axis, keepdim=True)
                    shape[axis] = 1
            view = Operand.strided(tuple(shape), tuple(stride), self.offset)
            if view.injective:
                view.gather(slots).add_(values)
                return
            index = view.index()
        else:
            assert self.table is not None
            index, values = self.table, values.expand(self.shape)
            valid = index >= 0
            if not bool(valid.all()):
                index, values = index[valid], values[valid]
        values = values.reshape(-1).to(slots.dtype)
        if values.untyped_storage().data_ptr() == slots.untyped_storage().data_ptr():
            values = values.clone()  # an identity edge carries a view of the slots themselves
        slots.index_add_(0, index.reshape(-1), values)

    def reduce(self, slots: torch.Tensor, values: torch.Tensor, how: str) -> None:
        """slots[index] = how(slots[index], values) for how in "amin", "amax"."""
        index = self.index().reshape(-1)
        values = values.expand(self.shape).reshape(-1)
        valid = index >= 0
        slots.scatter_reduce_(0, index[valid], values[valid], how)
