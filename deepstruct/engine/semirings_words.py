"""(or, and) on words of 64 bits: 64 sources in one sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.engine.semiring import Semiring
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator

WIDTH = 64


@dataclass(frozen=True)
class Words(Semiring):
    """Each of the 64 bits of an int64 is a boolean sweep of its own."""

    dtype: torch.dtype = torch.int64
    native: str = "or_u64"

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
        for bit in present(values):
            arrived = torch.zeros_like(slots)
            operand.reduce(arrived, (values >> bit) & 1, "amax")
            slots |= arrived << bit


WORDS = Words()


def mark(slots: torch.Tensor, count: int) -> torch.Tensor:
    """int64 per slot with bit k set at slots[k], for at most 64 slots (one may appear under several bits)."""
    out = torch.zeros(count, dtype=torch.int64)
    for bit, slot in enumerate(slots.tolist()):
        out[slot] |= _bit(bit)
    return out


def _bit(k: int) -> int:
    return -(1 << 63) if k == 63 else 1 << k


def present(words: torch.Tensor) -> list[int]:
    """The bits that some word has set."""
    union = int(np.bitwise_or.reduce(words.numpy(), axis=None)) if words.numel() else 0
    return [bit for bit in range(WIDTH) if (union >> bit) & 1]


def popcount(words: torch.Tensor) -> torch.Tensor:
    """int64: number of bits set in each word."""
    return _OF_BYTE[words.contiguous().view(torch.uint8).to(torch.int64)].reshape(*words.shape, 8).sum(-1)


_OF_BYTE = torch.tensor([bin(k).count("1") for k in range(256)], dtype=torch.int64)
