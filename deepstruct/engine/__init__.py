"""Passes over edge operators: apply one, sweep through all, repeat until nothing changes."""

from deepstruct.engine.semiring import BOOLEAN, LONGEST, SHORTEST, Boolean, Counting, Modular, PathLength, Semiring
from deepstruct.engine.sweeps import apply, fixpoint, sweep

__all__ = [
    "BOOLEAN",
    "LONGEST",
    "SHORTEST",
    "Boolean",
    "Counting",
    "Modular",
    "PathLength",
    "Semiring",
    "apply",
    "fixpoint",
    "sweep",
]
