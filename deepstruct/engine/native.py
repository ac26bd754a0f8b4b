"""Compiled kernels for the semirings, where they are built."""

from __future__ import annotations

import torch

from deepstruct.structure.operators import EdgeOperator


def available() -> bool:
    """Whether the compiled kernels are loaded."""
    return False


def push(
    op: EdgeOperator, semiring: str, source: torch.Tensor, out: torch.Tensor, *, transpose: bool = False,
    prime: int = 0, mode: str = "pattern", join: bool = True,
) -> bool:  # fmt: skip
    """out (join)= what the operator's edges make of source; False if that is not supported."""
    return False
