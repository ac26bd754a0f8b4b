"""What is added and multiplied along the edges.

A semiring says what one operator contributes to the slots on its other side, given values on this side,
and how contributions join. Here everything is computed through the operators' linear maps on torch tensors;
`native` names the compiled kernel of equal results that takes over where it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity, WeightMode

FAR = torch.iinfo(torch.int32).max  # the distance of what is not reached
_EXACT = 2**53  # float64 holds every whole number up to here


class Semiring:
    """Values of one dtype, the value of "nothing", and how edges carry them.

    Attributes:
        zero: the neutral element of joining: what a unit holds that nothing arrives at.
        native: name of the compiled kernel (see `deepstruct.engine.native`), if there is one.
        mode: which numbers the edges carry.
        prime: of arithmetic modulo a prime, else 0.
    """

    dtype: torch.dtype
    zero: float = 0
    native: str | None = None
    mode: WeightMode = "pattern"
    prime: int = 0

    def enter(self, start: torch.Tensor) -> torch.Tensor:
        """A fresh vector over the slots from what a caller wrote."""
        return start.to(self.dtype, copy=True)

    def leave(self, slots: torch.Tensor) -> torch.Tensor:
        """What a caller reads, from the vector over the slots."""
        return slots

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

    @property
    def native(self) -> str | None:  # type: ignore[override]
        return {torch.float64: "sum_f64", torch.float32: "sum_f32"}.get(self.dtype)

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        return op.backward(values, self.mode) if transpose else op.forward(values, self.mode)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        operand.accumulate(slots, values)


@dataclass(frozen=True)
class Modular(Semiring):
    """(+, x) modulo a prime below 2**49, as int64: residues of exact path counts."""

    prime: int = 2
    dtype: torch.dtype = torch.int64
    native: str = "mod"

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        """Through float64, in digits so small that every sum is exact."""

        def run(x: torch.Tensor) -> torch.Tensor:
            x = x.to(torch.float64)
            out = op.backward(x) if transpose else op.forward(x)
            return out.round().to(torch.int64).remainder(self.prime)

        largest = _EXACT // max(fan_in(op, transpose), 1)
        if self.prime <= largest:
            return run(values)
        bits = min(max(largest.bit_length() - 1, 1), 13)  # prime * 2**13 stays below 2**63
        digits, rest = [], values
        for _ in range(-(-self.prime.bit_length() // bits)):
            digits.append(rest & ((1 << bits) - 1))
            rest = rest >> bits
        out = run(digits.pop())
        while digits:
            out = ((out << bits) + run(digits.pop())).remainder(self.prime)
        return out

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        operand.accumulate(slots, values)
        if operand.stride is not None and operand.injective:
            operand.gather(slots).remainder_(self.prime)
        else:
            index = operand.index().reshape(-1)
            index = index[index >= 0]
            slots[index] = slots[index].remainder_(self.prime)


def fan_in(op: EdgeOperator, transpose: bool) -> int:
    """An upper bound of the number of edges that meet in one element of the side that is written."""
    if not transpose:
        return op.fan_in()
    return max(op.target.numel, 1) * (1 if op.target.scores is None else 2)  # a row and a column part per score


@dataclass(frozen=True)
class Boolean(Semiring):
    """(or, and) on bytes: each of the eight bits is a sweep of its own (0 and 1 for a single one).

    On wider integers the same, with more bits: see `deepstruct.engine.semirings_words`.
    """

    dtype: torch.dtype = torch.uint8
    native: str = "or_u8"

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        run: Callable[[torch.Tensor], torch.Tensor] = op.backward if transpose else op.forward
        out = torch.zeros((), dtype=self.dtype)
        for bit in present(values):
            mark = (values >> bit) & 1
            # a fast convolution may leave 1e-7 where nothing is
            out = out | ((run(mark.to(torch.float32)) > 0.5).to(self.dtype) << bit)
        return out.expand(op.source.shape if transpose else op.target.shape)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        if operand.stride is not None and operand.injective:
            operand.gather(slots).bitwise_or_(values)
            return
        index, words = operand.index(), values.expand(operand.shape)
        for bit in present(values):
            # an element that appears twice is given the same word twice
            marked = index[((words >> bit) & 1).bool() & (index >= 0)]
            slots[marked] = slots[marked] | (torch.ones((), dtype=self.dtype) << bit)


def present(words: torch.Tensor) -> list[int]:
    """The bits that some integer has set."""
    union = int(np.bitwise_or.reduce(words.numpy(), axis=None)) if words.numel() else 0
    return [bit for bit in range(8 * words.element_size()) if (union >> bit) & 1]


@dataclass(frozen=True)
class PathLength(Semiring):
    """(max, +1) or (min, +1): number of edges on the longest or shortest path; -1 where there is none.

    Without compiled kernels one boolean pass per distinct length among the values that an operator reads: few
    in real networks. Inside a sweep of shortest paths, `FAR` stands for -1.
    """

    longest: bool = True
    dtype: torch.dtype = torch.int32

    @property
    def zero(self) -> float:  # type: ignore[override]
        return -1 if self.longest else FAR

    @property
    def native(self) -> str:  # type: ignore[override]
        return "max_i32" if self.longest else "min_i32"

    def enter(self, start: torch.Tensor) -> torch.Tensor:
        slots = start.to(self.dtype, copy=True)
        return slots if self.longest else slots.masked_fill_(slots < 0, FAR)

    def leave(self, slots: torch.Tensor) -> torch.Tensor:
        return slots if self.longest else slots.masked_fill_(slots == FAR, -1)

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        nothing = int(self.zero)
        there = values != nothing
        if isinstance(op, Identity):
            kept = op.kept()
            length = values + (1 if kept is None else kept.to(values.dtype))
            return torch.where(there, length, nothing)
        shape = op.source.shape if transpose else op.target.shape
        out = torch.full(shape, nothing, dtype=values.dtype)
        if not bool(there.any()):
            return out
        present = torch.bincount(values[there].reshape(-1)).nonzero().reshape(-1).tolist()
        for length in reversed(present) if self.longest else present:
            mark = (values == length).to(torch.float32)
            reached = (op.backward(mark) if transpose else op.forward(mark)) > 0.5
            open_ = out == nothing
            out = torch.where(reached & open_, length + 1, out)
            if not bool((out == nothing).any()):
                break
        return out

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        if operand.stride is not None and operand.injective:
            here = operand.gather(slots)
            torch.maximum(here, values, out=here) if self.longest else torch.minimum(here, values, out=here)
        else:
            operand.reduce(slots, values, "amax" if self.longest else "amin")


BOOLEAN = Boolean()
LONGEST = PathLength(longest=True)
SHORTEST = PathLength(longest=False)
