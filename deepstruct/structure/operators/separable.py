"""Windows that are a product over the axes: pooling, reductions, cumulative sums, interpolation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import EdgeOperator, Edges, WeightMode

_CHUNK = 1 << 22  # edges in one piece


class Separable(EdgeOperator):
    """Structural edges x[i1, i2, ...] -> y[o1, o2, ...] where every axis has o_k reading i_k.

    Args:
        source, target: operands of equal rank.
        axes: per axis a boolean matrix (out, in), or None where the axis is passed through one to one.
    """

    def __init__(self, source: Operand, target: Operand, axes: list[torch.Tensor | None]) -> None:
        self.source, self.target, self.axes = source, target, axes

    def _along(self, x: torch.Tensor, transpose: bool) -> torch.Tensor:
        for axis, matrix in enumerate(self.axes):
            if matrix is None:
                continue
            table = matrix.T if transpose else matrix
            if bool(table.all()):
                shape = list(x.shape)
                shape[axis] = table.shape[0]
                x = x.sum(axis, keepdim=True).expand(shape)
            else:
                x = (x.movedim(axis, -1) @ table.T.to(x.dtype)).movedim(-1, axis)
        return x

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self._along(x, transpose=False)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self._along(y, transpose=True)

    def fan_in(self) -> int:
        total = 1
        for matrix in self.axes:
            if matrix is not None and matrix.numel():
                total *= int(matrix.sum(1).max())
        return total

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        if source_ok is not None or target_ok is not None:
            return super().count(source_ok, target_ok)
        total = 1
        for n, matrix in zip(self.source.shape, self.axes, strict=True):
            total *= n if matrix is None else int(matrix.sum().item())
        return total

    def edges(self) -> Iterator[Edges]:
        source = target = torch.zeros(1, dtype=torch.int64)
        for axis, matrix in enumerate(self.axes):
            if matrix is None:
                out = here = torch.arange(self.source.shape[axis])
            else:
                out, here = matrix.nonzero(as_tuple=True)
            source = (source[:, None] * self.source.shape[axis] + here).reshape(-1)
            target = (target[:, None] * self.target.shape[axis] + out).reshape(-1)
        for start in range(0, source.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            nan = torch.full((source[part].numel(),), float("nan"), dtype=torch.float64)
            yield Edges(source[part], target[part], nan)

    def bytes(self) -> int:
        return sum(m.numel() for m in self.axes if m is not None)
