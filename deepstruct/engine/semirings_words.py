"""(or, and) on words of 64 bits: 64 sources in one sweep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.engine.semiring import Boolean, present

WIDTH = 64


@dataclass(frozen=True)
class Words(Boolean):
    """Each of the 64 bits of an int64 is a boolean sweep of its own."""

    dtype: torch.dtype = torch.int64
    native: str = "or_u64"


WORDS = Words()


def mark(slots: torch.Tensor, count: int) -> torch.Tensor:
    """int64 per slot with bit k set at slots[k], for at most 64 slots (one may appear under several bits)."""
    out = torch.zeros(count, dtype=torch.int64)
    for bit, slot in enumerate(slots.tolist()):
        out[slot] |= _bit(bit)
    return out


def _bit(k: int) -> int:
    return -(1 << 63) if k == 63 else 1 << k


def popcount(words: torch.Tensor) -> torch.Tensor:
    """int64: number of bits set in each word."""
    return _OF_BYTE[words.contiguous().view(torch.uint8).to(torch.int64)].reshape(*words.shape, 8).sum(-1)


_OF_BYTE = torch.tensor([bin(k).count("1") for k in range(256)], dtype=torch.int64)


__all__ = ["WIDTH", "WORDS", "Words", "mark", "popcount", "present"]
