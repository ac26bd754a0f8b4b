"""Stored weights that many positions share, read once: where they are edges, and sums over them by channel and tap."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from deepstruct import _native
from deepstruct.structure.operators.base import EdgeOperator, WeightRef, alive, as_numbers

_CODES = {torch.float32: "f32", torch.float64: "f64"}


class Live:
    """Which of some stored weights are edges.

    The weights are a table of rows (first, second * taps), as they lie in memory: a convolution's (out, in / groups,
    taps), a linear layer's (out, in), another matrix's (in, out).

    Attributes:
        total: how many weights are edges.
        by_row: int64 (first, taps), how many of them each row has.
        by_column: int64 (groups, second, taps), how many each column of a group has.
        bits: uint64 (first, words), one bit a weight; None where all are edges, and without compiled kernels.

    Args:
        tensor: the weights, (first, second, *kernel), with values.
        threshold: in magnitude, below which a weight is no edge; 0 for none.
        groups: rows of one group have columns of their own.
    """

    def __init__(self, tensor: torch.Tensor, threshold: float, groups: int = 1) -> None:
        self.tensor, self.threshold, self.groups = tensor.detach().cpu(), threshold, groups
        self.first, self.second, self.taps = tensor.shape[0], tensor.shape[1], math.prod(tensor.shape[2:])
        self.bits: np.ndarray | None = None
        native = _native.load()
        if native is not None and tensor.numel():
            self._survey(native)
        else:
            self.by_row, self.by_column = self._sums(alive(self.tensor, threshold).to(torch.int64))
        self.total = int(self.by_row.sum())
        if self.dense:
            self.bits = None

    def _survey(self, native: object) -> None:
        data, threshold = self.tensor.contiguous(), max(self.threshold, 0.0)
        if data.dtype not in _CODES:
            data, threshold = alive(data, self.threshold).view(torch.uint8), 0.0
        survey = getattr(native, f"survey_{_CODES.get(data.dtype, 'u8')}")
        bits, rows, columns = survey(
            data.numpy(), self.first, self.second, self.taps, self.groups, threshold, torch.get_num_threads()
        )
        self.bits, self.by_row, self.by_column = bits, torch.from_numpy(rows), torch.from_numpy(columns)

    def _sums(self, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """By row and tap, and by group, column and tap."""
        table = table.reshape(self.groups, self.first // self.groups, self.second, self.taps)
        return table.sum(2).reshape(self.first, self.taps), table.sum(1)

    @property
    def dense(self) -> bool:
        """Whether every weight is an edge."""
        return self.total == self.tensor.numel()

    @cached_property
    def magnitudes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float64: the sums of the magnitudes of the weights that are edges, shaped as `by_row` and `by_column`."""
        native = _native.load()
        if native is None or self.tensor.dtype not in _CODES or (self.bits is None and not self.dense):
            sizes = as_numbers(self.tensor, "abs", torch.float64)
            return self._sums(torch.where(alive(self.tensor, self.threshold), sizes, 0))
        rows, columns = getattr(native, f"magnitudes_{_CODES[self.tensor.dtype]}")(
            self.tensor.contiguous().numpy(), self.bits, self.first, self.second, self.taps, self.groups,
            torch.get_num_threads(),
        )  # fmt: skip
        return torch.from_numpy(rows), torch.from_numpy(columns)


class Contraction(EdgeOperator):
    """An operator whose weights many positions share. Operators that have such weights say how they lie in memory."""

    threshold: float
    _live: tuple[object, Live] | None = None

    @property
    def live(self) -> Live | None:
        """What one reading of the weights said, read again where they have changed since; None without values."""
        if self.weight is None or self.weight.tensor.is_meta:
            return None
        stamp = (*stamp_of(self.weight.tensor), self.threshold)
        if self._live is None or self._live[0] != stamp:
            self._live = stamp, self._read(self.weight)
        return self._live[1]

    def _read(self, ref: WeightRef) -> Live:
        raise NotImplementedError


def stamp_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Changes whenever the values of a tensor may have: another tensor, or one that was written in place."""
    version = -1 if tensor.is_inference() else tensor._version
    return (id(tensor), 0 if tensor.is_meta else tensor.data_ptr(), version)
