"""A 0/1 matrix that many products share: attention masks, by their shape where that is quicker."""

from __future__ import annotations

import torch


class Mask:
    """Which pairs (inner, outer) of a product are kept: y = x M and its transpose.

    A matrix that is the same for every batch entry is kept once. A staircase (a causal mask: every column
    keeps the inner elements before an end that never moves back, or the same with the sides swapped) is
    applied by a running sum, which adds each element once and subtracts nothing.

    Args:
        matrix: boolean (*batch, inner, outer); batch axes may have length 1.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = _shared(matrix)
        self.inner, self.outer = self.matrix.shape[-2:]
        self._ends = _stairs(self.matrix) if self.matrix.dim() == 2 else None
        self._starts = _stairs(self.matrix.T) if self.matrix.dim() == 2 and self._ends is None else None

    @property
    def stairs(self) -> bool:
        """Whether it is a staircase."""
        return self._ends is not None or self._starts is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x @ M for x of shape (*batch, rows, inner)."""
        if self._ends is not None:
            return _before(x, self._ends)
        if self._starts is not None:
            return _from(x, self._starts, self.outer)
        return x @ self.matrix.to(x.dtype)

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        """y @ M' for y of shape (*batch, rows, outer)."""
        if self._ends is not None:
            return _from(y, self._ends, self.inner)
        if self._starts is not None:
            return _before(y, self._starts)
        return y @ self.matrix.to(y.dtype).transpose(-1, -2)


def _shared(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix without the batch axes along which it does not change."""
    for axis in range(matrix.dim() - 2):
        if matrix.shape[axis] == 0:
            return matrix
        first = matrix.narrow(axis, 0, 1)
        if matrix.shape[axis] > 1 and (matrix.stride(axis) == 0 or bool((matrix == first).all())):
            matrix = first
    while matrix.dim() > 2 and matrix.shape[0] == 1:
        matrix = matrix[0]
    return matrix.contiguous()


def _stairs(matrix: torch.Tensor) -> torch.Tensor | None:
    """Per column the number of leading rows that it keeps, where it keeps no others and no column keeps fewer
    than the one before it; None where the matrix is not like that."""
    if matrix.numel() == 0:
        return None
    ends = matrix.sum(0)
    if bool((ends[1:] < ends[:-1]).any()):
        return None
    rows = torch.arange(matrix.shape[0], device=matrix.device)
    return ends if torch.equal(matrix, rows[:, None] < ends) else None


def _before(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """For each o the sum of the first ends[o] elements."""
    if x.numel() == 0:
        return x.new_zeros(*x.shape[:-1], ends.numel())
    sums = x.cumsum(-1, dtype=x.dtype)[..., (ends - 1).clamp(min=0)]
    return sums.masked_fill_(ends == 0, 0)


def _from(y: torch.Tensor, ends: torch.Tensor, inner: int) -> torch.Tensor:
    """For each i the sum of the elements o with ends[o] > i, which are the last ones."""
    first = torch.searchsorted(ends, torch.arange(inner), right=True)  # elements before it end too early
    if y.numel() == 0:
        return y.new_zeros(*y.shape[:-1], inner)
    sums = y.flip(-1).cumsum(-1, dtype=y.dtype)[..., (y.shape[-1] - 1 - first).clamp(min=0)]
    return sums.masked_fill_(first == y.shape[-1], 0)
