"""Long vectors in large pages: a fresh page of 4 KiB costs more than the numbers on it.

A vector over the slots of a large network takes tens of thousands of such pages, each of which the system has to
find and clear when it is first written. numpy asks for pages of 2 MiB where the system has them.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import torch

_DTYPES = {
    torch.bool: np.bool_, torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32, torch.int64: np.int64,
    torch.float32: np.float32, torch.float64: np.float64,
}  # fmt: skip

LARGE = 1 << 23  # slots, or nodes; pages behind smaller graphs are soon used again


def empty(size: int, dtype: torch.dtype) -> torch.Tensor:
    """A vector of `size` elements that hold anything."""
    return torch.from_numpy(np.empty(size, _DTYPES[dtype])) if dtype in _DTYPES else torch.empty(size, dtype=dtype)


def full(size: int, dtype: torch.dtype, value: float = 0) -> torch.Tensor:
    """A vector of `size` elements that all hold `value`."""
    return empty(size, dtype).fill_(value)


def converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a vector in another dtype (or the same)."""
    return empty(x.numel(), dtype).view(x.shape).copy_(x)


def give_back() -> None:
    """Hand pages that were freed back to the system, where the C library keeps them (glibc does).

    Building a large graph makes and drops many tables of a few MiB, between which small objects stay.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def how_many(marks: torch.Tensor) -> int:
    """How many elements of a boolean (or byte) tensor are not zero; torch's sum would make integers of them first."""
    return int(np.count_nonzero(marks.numpy()))
