"""Masked and sparse layers: models in which only some connections exist, and only those are computed."""

from __future__ import annotations

from deepstruct.sparse.conv import MaskedConv1d, MaskedConv2d
from deepstruct.sparse.convert import compress, densify
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.masked import (
    MaskableModule,
    MaskedLayer,
    MaskedLinearLayer,
    maskable_layers,
    maskable_layers_with_name,
)

__all__ = [
    "MaskableModule",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedLayer",
    "MaskedLinearLayer",
    "SparseLinear",
    "compress",
    "densify",
    "maskable_layers",
    "maskable_layers_with_name",
]
