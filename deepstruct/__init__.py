"""deepstruct turns PyTorch models into graphs, measures them, and builds models back from graphs.

Importing this package loads neither torch nor any plugin: what is named here is imported when it is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0.dev0"

if TYPE_CHECKING:
    from deepstruct.api import analyze, extract
    from deepstruct.batches import batch
    from deepstruct.errors import (
        BudgetError,
        CapacityError,
        CheckpointError,
        DeepstructError,
        InputError,
        MetricError,
        MissingExtraError,
        ModelStateError,
        PluginError,
        StructureError,
        TraceError,
        UnknownOpError,
    )
    from deepstruct.plugin.markers import hookimpl
    from deepstruct.tracking import track
    from deepstruct.trajectory import drift

_LAZY = {
    "analyze": "deepstruct.api",
    "batch": "deepstruct.batches",
    "drift": "deepstruct.trajectory",
    "extract": "deepstruct.api",
    "hookimpl": "deepstruct.plugin.markers",
    "track": "deepstruct.tracking",
    "BudgetError": "deepstruct.errors",
    "CapacityError": "deepstruct.errors",
    "CheckpointError": "deepstruct.errors",
    "DeepstructError": "deepstruct.errors",
    "InputError": "deepstruct.errors",
    "MetricError": "deepstruct.errors",
    "MissingExtraError": "deepstruct.errors",
    "ModelStateError": "deepstruct.errors",
    "PluginError": "deepstruct.errors",
    "StructureError": "deepstruct.errors",
    "TraceError": "deepstruct.errors",
    "UnknownOpError": "deepstruct.errors",
}
_SUBMODULES = frozenset(
    {
        "analyzers",
        "checkpoints",
        "cli",
        "dataset",
        "engine",
        "errors",
        "functional",
        "graph",
        "metrics",
        "models",
        "plugin",
        "pruning",
        "report",
        "scalable",
        "sparse",
        "structure",
        "testing",
        "trace",
        "transform",
        "util",
    }
)

__all__ = [
    "BudgetError",
    "CapacityError",
    "CheckpointError",
    "DeepstructError",
    "InputError",
    "MetricError",
    "MissingExtraError",
    "ModelStateError",
    "PluginError",
    "StructureError",
    "TraceError",
    "UnknownOpError",
    "__version__",
    "analyze",
    "batch",
    "drift",
    "extract",
    "hookimpl",
    "track",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"deepstruct.{name}")
    raise AttributeError(f"module 'deepstruct' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
