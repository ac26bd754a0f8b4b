"""Building the kernels of the masked layers (see `deepstruct._build`, which builds all of them)."""

from __future__ import annotations

from pathlib import Path

from deepstruct import _build
from deepstruct._build import TORCH_TARGET, BuildError, compiler, suffix
from deepstruct._build import build_masked as build

__all__ = ["TORCH_TARGET", "BuildError", "build", "compiler", "source_folder", "suffix"]


def source_folder() -> Path:
    """csrc/masked of the checkout, or its copy in an installed package."""
    return _build.source_folder("masked")
