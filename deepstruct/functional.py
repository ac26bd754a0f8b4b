"""Functional twins of the masked and sparse layers."""

from __future__ import annotations

from deepstruct.sparse.convolution import masked_conv1d, masked_conv2d
from deepstruct.sparse.functional import masked_linear, sparse_linear
from deepstruct.sparse.structure import Structure, build_structure

__all__ = [
    "Structure",
    "build_structure",
    "masked_conv1d",
    "masked_conv2d",
    "masked_linear",
    "sparse_linear",
]
