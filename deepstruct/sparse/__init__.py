"""Masked and sparse layers and models: only some connections exist, and only those are computed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deepstruct.sparse.conv import MaskedConv1d, MaskedConv2d
from deepstruct.sparse.convert import compress, densify
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.maskable import MaskableModel, prunable_layers, prunable_layers_with_name
from deepstruct.sparse.masked import (
    MaskableModule,
    MaskedLayer,
    MaskedLinearLayer,
    maskable_layers,
    maskable_layers_with_name,
)

if TYPE_CHECKING:
    from deepstruct.graph import CachedLayeredGraph, LayeredGraph
    from deepstruct.sparse.cells import DeepCellDAN
    from deepstruct.sparse.dag import DagLinear
    from deepstruct.sparse.dan import MaskedDeepDAN
    from deepstruct.sparse.ffn import MaskedDeepFFN

# Models of graphs bring networkx with them, so they are imported when they are first used.
_LAZY = {
    "CachedLayeredGraph": "deepstruct.graph",
    "DagLinear": "deepstruct.sparse.dag",
    "DeepCellDAN": "deepstruct.sparse.cells",
    "LayeredGraph": "deepstruct.graph",
    "MaskedDeepDAN": "deepstruct.sparse.dan",
    "MaskedDeepFFN": "deepstruct.sparse.ffn",
}

__all__ = [
    "CachedLayeredGraph",
    "DagLinear",
    "DeepCellDAN",
    "LayeredGraph",
    "MaskableModel",
    "MaskableModule",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedDeepDAN",
    "MaskedDeepFFN",
    "MaskedLayer",
    "MaskedLinearLayer",
    "SparseLinear",
    "compress",
    "densify",
    "maskable_layers",
    "maskable_layers_with_name",
    "prunable_layers",
    "prunable_layers_with_name",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'deepstruct.sparse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
