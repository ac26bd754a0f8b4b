"""What a rule sees of an activation: which unit stands behind each element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from deepstruct.structure.operand import CONST, MASKED, ZERO

Flag = bool | torch.Tensor


@dataclass(frozen=True)
class Signal:
    """The index map of an activation tensor.

    Attributes:
        index: int64 tensor of the activation's shape: a slot, or CONST, ZERO or MASKED. Where the map is
            strided it is a view of the space's own numbering and costs no memory.
        nonlinear: whether something non-linear happened to an element since its unit was made (a bool for
            all elements, or a boolean tensor).
        unmasked: the index map before scores were masked, kept until the softmax that makes it final.
    """

    index: torch.Tensor
    nonlinear: Flag = False
    unmasked: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.index.shape)

    def same_units(self, other: Signal) -> bool:
        """Whether both maps are equal element by element."""
        a, b = self.index, other.index
        if a is b:
            return True
        if a.shape != b.shape:
            return False
        same_memory = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        if same_memory and a.stride() == b.stride() and a.storage_offset() == b.storage_offset():
            return True
        return torch.equal(a, b)

    def curved(self) -> Signal:
        """The signal after a non-linear one-to-one operation."""
        return Signal(self.index, True)

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Signal:
        """The signal re-indexed by a function that works on any tensor of its shape."""
        index = function(self.index)
        flag = self.nonlinear
        if isinstance(flag, torch.Tensor):
            flag = function(flag)
        unmasked = None if self.unmasked is None else function(self.unmasked)
        return Signal(index, flag, unmasked)

    def filled(self, where: torch.Tensor, code: int) -> Signal:
        """The signal with the elements in `where` (boolean, broadcastable) replaced by a non-unit."""
        where = where.expand(self.index.shape)
        if not bool(where.any()):
            return self
        index = self.index.masked_fill(where, code)
        keep = self.unmasked
        if code == MASKED and keep is None:
            keep = self.index
        return Signal(index, self.nonlinear, keep)


def constant(value: torch.Tensor) -> torch.Tensor:
    """The index map of a constant tensor: ZERO where it is zero, CONST elsewhere."""
    return torch.where(value == 0, ZERO, CONST).to(torch.int64)


def flag_tensor(flag: Flag, shape: tuple[int, ...]) -> torch.Tensor:
    """The flag as a boolean tensor of the given shape."""
    if isinstance(flag, torch.Tensor):
        return flag.expand(shape)
    return torch.tensor(flag).expand(shape)


def join_flags(flags: list[Flag]) -> Flag | None:
    """One bool where all flags agree, None where the caller has to work element by element."""
    if all(isinstance(f, bool) for f in flags) and len(set(map(bool, flags))) <= 1:
        return bool(flags[0]) if flags else False
    return None
