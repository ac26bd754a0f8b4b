"""The largest or smallest of what arrives: weighted longest and shortest paths, widest paths, labels.

(max, +), (min, +) and (max, min) over edge lengths that come from the weights, and (max, keep) over whole
numbers. Every kind of operator is carried in its own shape (a window of taps, a matrix in pieces), so that
the edges are never written down.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal, TypeAlias

import torch

from deepstruct.engine import native
from deepstruct.engine.semiring import LONGEST, Semiring
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    Matmul,
    ScoreOperator,
    Separable,
    Sparse,
    WeightMode,
    alive,
)

_PIECE = 1 << 22  # values that are compared at a time
_IN_FLOAT32 = (torch.float32, torch.float16, torch.bfloat16)  # types whose numbers float32 holds

Index: TypeAlias = "tuple[EllipsisType | slice | int, ...]"
Length = Literal["none", "abs", "neglog"]
"""Length of a weight edge: 0, |w| or -log|w|; of a structural edge: 0, 1 or 0."""


@dataclass(frozen=True)
class Extreme(Semiring):
    """The largest (smallest) value over paths, of lengths that add up or, as `bottleneck`, of the least |w|.

    float64 with +-inf where nothing arrives; int32 with -1 (and length "none", the largest) for labels.
    A structural edge has length 1 with "abs", 0 with "neglog", and any width.
    """

    largest: bool = True
    length: Length = "none"
    bottleneck: bool = False
    dtype: torch.dtype = torch.float64

    @property
    def zero(self) -> float:  # type: ignore[override]
        if not self.dtype.is_floating_point:
            return -1
        return -math.inf if self.largest else math.inf

    # -- lengths of edges

    def _structural(self) -> float:
        if self.bottleneck:
            return math.inf
        return 1.0 if self.length == "abs" else 0.0

    def _lengths(self, op: EdgeOperator) -> torch.Tensor | None:
        """Length per stored weight, `zero` where it is no edge; None where all edges are alike."""
        if op.weight is None:
            return None
        tensor, threshold = op.weight.tensor, float(getattr(op, "threshold", 0.0))
        plain = self.length == "none" and not self.bottleneck
        if tensor.is_meta:
            if plain or not op.weighted:
                return None
            raise MetricError(
                "the model's weights have no values (they are on the meta device), and this needs their magnitudes: "
                "load weights into the model first"
            )
        live = alive(tensor, threshold)
        if plain or not op.weighted:
            values = torch.full(tensor.shape, 0 if plain else self._structural(), dtype=self.dtype)
            return None if bool(live.all()) else torch.where(live, values, self._nothing())
        values = tensor.detach().to(torch.float64).abs()
        if self.length == "neglog":
            values = -values.log()
        return torch.where(live, values, self._nothing())

    def _nothing(self) -> torch.Tensor:
        return torch.tensor(self.zero, dtype=self.dtype)

    def _along(self, values: torch.Tensor, length: torch.Tensor | float) -> torch.Tensor:
        """A value at the far end of edges of the given length."""
        if self.bottleneck:
            other = length if isinstance(length, torch.Tensor) else torch.tensor(length, dtype=self.dtype)
            return torch.minimum(values, other)
        if self.dtype.is_floating_point:
            return values + length
        if isinstance(length, torch.Tensor):
            return torch.where(length < 0, length, values)
        return values

    def _best(self, values: torch.Tensor, axis: int | tuple[int, ...], keepdim: bool = False) -> torch.Tensor:
        return values.amax(axis, keepdim) if self.largest else values.amin(axis, keepdim)

    def _better(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.maximum(a, b) if self.largest else torch.minimum(a, b)

    # -- operators

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        shape = op.source.shape if transpose else op.target.shape
        if isinstance(op, Identity):
            kept = op.kept()
            moved = self._along(values, self._structural())
            return moved if kept is None else torch.where(kept, moved, values)
        if op.source.numel == 0 or op.target.numel == 0:
            return self._nothing().expand(shape)
        if (fast := self._compiled(op, values, transpose, shape)) is not None:
            return fast
        if isinstance(op, ScoreOperator):
            return self._along(op.best(values, transpose, self.largest, self.zero), self._structural())
        if isinstance(op, Matmul):
            return self._matmul(op, values, transpose)
        if isinstance(op, Conv):
            return self._conv(op, values, transpose)
        if isinstance(op, Separable):
            return self._separable(op, values, transpose)
        if isinstance(op, Sparse):
            return self._sparse(op, values, transpose)
        kind = type(op).__name__
        raise MetricError(f"largest and smallest values over paths are not known for operators of type {kind}")

    def _compiled(
        self, op: EdgeOperator, values: torch.Tensor, transpose: bool, shape: tuple[int, ...]
    ) -> torch.Tensor | None:
        """Labels by the kernel of longest paths, which adds 1 on the way; widest paths by their own."""
        if not native.available():
            return None
        if self.bottleneck and self.largest:
            return self._widest(op, values, transpose, shape)
        if self.dtype != torch.int32:
            return None
        out = torch.empty(shape, dtype=torch.int32)
        if not native.push(op, "max_i32", values, out, transpose=transpose, join=False):
            return None
        return torch.where(out >= 0, out - 1, out)

    def _widest(
        self, op: EdgeOperator, values: torch.Tensor, transpose: bool, shape: tuple[int, ...]
    ) -> torch.Tensor | None:
        """Widest paths in float32, which rounds nothing: a width is one of the weights, or has no bound."""
        weighted = op.weighted and op.weight is not None
        if weighted:
            assert op.weight is not None
            tensor = op.weight.tensor
            if tensor.is_meta or tensor.dtype not in _IN_FLOAT32 or bool(tensor.isnan().any()):
                return None
        wide = values.clamp(min=0)  # 0 stands for no path
        narrow = wide.to(torch.float32)
        if bool((narrow != wide).any()):
            return None
        out = torch.empty(shape, dtype=torch.float32)
        mode: WeightMode = "abs" if weighted else "pattern"
        if not native.push(op, "widest_f32", narrow, out, transpose=transpose, mode=mode, join=False):
            return None
        return torch.where(out > 0, out.to(self.dtype), self._nothing())

    def _matmul(self, op: Matmul, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        if op.weight is not None:
            table = self._lengths(op)
        elif op.pattern is not None:
            edge = torch.tensor(0 if not self.dtype.is_floating_point else self._structural(), dtype=self.dtype)
            table = torch.where(op.pattern, edge, self._nothing())
        else:
            table = None
        width = op.inner if transpose else op.outer
        if table is None:
            best = self._along(self._best(values, -1, keepdim=True), self._structural())
            return best.expand(*values.shape[:-1], width)
        if not transpose:
            table = table.transpose(-1, -2)  # (..., written, read)
        out = []
        for part in table.split(max(1, _PIECE // max(values.numel(), 1)), dim=-2):
            out.append(self._best(self._along(values.unsqueeze(-2), part.unsqueeze(-3)), -1))
        return torch.cat(out, -1)

    def _conv(self, op: Conv, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        groups, batch = op.groups, values.shape[0]
        read, written = (op.target, op.source) if transpose else (op.source, op.target)
        shape = (batch, groups, written.shape[1] // groups, *written.shape[2:])
        x = values.reshape(batch, groups, read.shape[1] // groups, *read.shape[2:])
        table = self._lengths(op)
        out = torch.full(shape, self.zero, dtype=self.dtype)
        if table is None:
            x = self._along(self._best(x, 2, keepdim=True), self._structural())
        else:
            first = table.shape[0] // groups  # (out, in) of a convolution, (in, out) of a transposed one
            table = table.reshape(groups, first, *table.shape[1:])
            if op.transposed:
                table = table.transpose(1, 2)
            if transpose:
                table = table.transpose(1, 2)  # (groups, written, read, *taps)
        for tap in itertools.product(*(range(size) for size in op.kernel)):
            sides = _joined_by(op, tap)
            if sides is None:
                continue
            there, here = sides if transpose else sides[::-1]
            source, target = x[there], out[here]
            if table is None:
                target.copy_(self._better(target, source))
                continue
            index: Index = (Ellipsis, *tap)
            lengths = table[index]
            step = max(1, _PIECE // max(source.numel(), 1))
            axes = (1,) * (source.dim() - 3)
            for begin in range(0, shape[2], step):
                piece = lengths[:, begin : begin + step].reshape(groups, -1, x.shape[2], *axes)
                best = self._best(self._along(source.unsqueeze(2), piece), 3)
                part = target[:, :, begin : begin + step]
                part.copy_(self._better(part, best))
        return out.reshape(written.shape)

    def _separable(self, op: Separable, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        for axis, matrix in enumerate(op.axes):
            if matrix is None:
                continue
            table = matrix.T if transpose else matrix
            if bool(table.all()):
                shape = list(values.shape)
                shape[axis] = table.shape[0]
                values = self._best(values, axis, keepdim=True).expand(shape)
                continue
            moved = values.movedim(axis, -1)
            out = []
            for part in table.split(max(1, _PIECE // max(moved.numel(), 1))):
                out.append(self._best(torch.where(part, moved.unsqueeze(-2), self._nothing()), -1))
            values = torch.cat(out, -1).movedim(-1, axis)
        return self._along(values, self._structural())

    def _sparse(self, op: Sparse, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        read, written = (op.cols, op.rows) if transpose else (op.rows, op.cols)
        table = self._lengths(op)
        moved = self._along(values.reshape(-1)[read], self._structural() if table is None else table)
        shape = op.source.shape if transpose else op.target.shape
        out = torch.full((math.prod(shape),), self.zero, dtype=self.dtype)
        out.scatter_reduce_(0, written, moved, "amax" if self.largest else "amin")
        return out.reshape(shape)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        if operand.stride is not None and operand.injective:
            here = operand.gather(slots)
            here.copy_(self._better(here, values))
        else:
            operand.reduce(slots, values, "amax" if self.largest else "amin")


def _joined_by(op: Conv, tap: tuple[int, ...]) -> tuple[Index, Index] | None:
    """Positions outside and inside that a tap joins, as indices of the last axes; None where it joins none."""
    outer: Index = (Ellipsis,)
    inner: Index = (Ellipsis,)
    for entries, k in zip(op.taps, tap, strict=True):
        use = entries[0] == k
        if not bool(use.any()):
            return None
        outer, inner = (*outer, _slice(entries[1][use])), (*inner, _slice(entries[2][use]))
    return outer, inner


def _slice(positions: torch.Tensor) -> slice:
    first, last = int(positions[0]), int(positions[-1])
    step = int(positions[1]) - first if positions.numel() > 1 else 1
    return slice(first, last + 1, step)


@dataclass(frozen=True)
class Registers(Semiring):
    """(max, keep) on small whole numbers from 0, as int32 with -1 for nothing: longest paths without their steps."""

    dtype: torch.dtype = torch.int32
    zero: float = -1

    def carry(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> torch.Tensor:
        if isinstance(op, Identity):
            return values
        out = carry(op, values, LONGEST, transpose=transpose)
        return torch.where(out >= 0, out - 1, out)

    def join(self, slots: torch.Tensor, operand: Operand, values: torch.Tensor) -> None:
        LONGEST.join(slots, operand, values)


REGISTERS = Registers()
LABELS = Extreme(dtype=torch.int32)
LIGHTEST = Extreme(largest=False, length="abs")
HEAVIEST = Extreme(largest=True, length="abs")
STRONGEST = Extreme(largest=False, length="neglog")
WEAKEST = Extreme(largest=True, length="neglog")
WIDEST = Extreme(largest=True, bottleneck=True)
