"""What is added and multiplied along the edges.

A semiring says what one operator contributes to the slots on its other side, given values on this side,
and how contributions join. All are computed through the operators' linear maps on torch tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity, WeightMode


class Semiring:
    """Values of one dtype, the value of "nothing", and how edges carry them."""

    dtype: torch.dtype
    zero: float = 0

    def read(self, slots: torch.Tensor, operand: Operand) -> torch.Tensor:
        """Values of an operand's elements, `zero` where there is no unit."""
        return operand.gather(slots, self.zero)

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        """What the edges of an operator make of values on one side."""
        raise NotImplementedError

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        """Add contributions to the slots of an operand."""
        raise NotImplementedError


@dataclass(frozen=True)
class Counting(Semiring):
    """(+, x) in floating point: sums over paths of the product of edge values of the given mode."""

    dtype: torch.dtype = torch.float64
    mode: WeightMode = "pattern"

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        return op.backward(values, self.mode) if transpose else op.forward(values, self.mode)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        operand.accumulate(slots, values)


@dataclass(frozen=True)
class Modular(Semiring):
    """(+, x) modulo a prime, in float64 that stays below 2**53: residues of exact path counts."""

    prime: int = 2
    dtype: torch.dtype = torch.float64

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        out = op.backward(values) if transpose else op.forward(values)
        return torch.remainder(out, self.prime)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        operand.accumulate(slots, values)
        if operand.stride is not None and operand.injective:
            operand.gather(slots).remainder_(self.prime)
        else:
            slots.remainder_(self.prime)


@dataclass(frozen=True)
class Boolean(Semiring):
    """(or, and) as float32 0/1; values are clamped to {0, 1} whenever they are read."""

    dtype: torch.dtype = torch.float32

    def read(self, slots: torch.Tensor, operand: Operand) -> torch.Tensor:
        return (operand.gather(slots) > 0.5).to(self.dtype)

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        out = op.backward(values) if transpose else op.forward(values)
        return (out > 0.5).to(self.dtype)  # a fast convolution may leave 1e-7 where nothing is

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        operand.accumulate(slots, values)


@dataclass(frozen=True)
class PathLength(Semiring):
    """(max, +1) or (min, +1): number of edges on the longest or shortest path; -1 where there is none.

    One boolean pass per distinct length among the values that an operator reads: few in real networks.
    """

    longest: bool = True
    dtype: torch.dtype = torch.int32
    zero: float = -1

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        step = 1
        if isinstance(op, Identity):
            kept = op.kept()
            length = values + (1 if kept is None else kept.to(values.dtype))
            return torch.where(values >= 0, length, -1)
        shape = op.source.shape if transpose else op.target.shape
        out = torch.full(shape, -1, dtype=values.dtype)
        if values.numel() == 0:
            return out
        present = torch.bincount(values.reshape(-1) + 1)[1:].nonzero().reshape(-1).tolist()
        for length in reversed(present) if self.longest else present:
            mark = (values == length).to(torch.float32)
            reached = (op.backward(mark) if transpose else op.forward(mark)) > 0.5
            open_ = out < 0
            out = torch.where(reached & open_, length + step, out)
            if not bool((out < 0).any()):
                break
        return out

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        if operand.stride is not None and operand.injective:
            here = operand.gather(slots)
            here.copy_(self._better(here, values))
            return
        index = operand.index().reshape(-1)
        flat = values.reshape(-1)
        use = (index >= 0) & (flat >= 0)
        if self.longest:
            slots.scatter_reduce_(0, index[use], flat[use], "amax")
        else:
            far = torch.iinfo(slots.dtype).max
            slots.masked_fill_(slots < 0, far)
            slots.scatter_reduce_(0, index[use], flat[use], "amin")
            slots.masked_fill_(slots == far, -1)

    def _better(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self.longest:
            return torch.maximum(a, b)
        return torch.where(a < 0, b, torch.where(b < 0, a, torch.minimum(a, b)))


BOOLEAN = Boolean()
LONGEST = PathLength(longest=True)
SHORTEST = PathLength(longest=False)
