"""What tests of plugins use: `check_rule` and the Jacobian oracle, `check_metric`, `check_plugin`, brute force."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepstruct.testing.build import build_graph, generic_copy
    from deepstruct.testing.explicit import count_paths, graph_support
    from deepstruct.testing.jacobian import check_containment, check_equality, jacobian_support
    from deepstruct.testing.metrics import check_metric
    from deepstruct.testing.plugins import check_plugin, parametrize_with_plugin_checks, plugin_checks
    from deepstruct.testing.rules import check_rule
    from deepstruct.testing.support import OracleError, Support
    from deepstruct.testing.vjp import Probe, check_vjp

_LAZY = {
    "OracleError": "deepstruct.testing.support",
    "Probe": "deepstruct.testing.vjp",
    "Support": "deepstruct.testing.support",
    "build_graph": "deepstruct.testing.build",
    "check_containment": "deepstruct.testing.jacobian",
    "check_equality": "deepstruct.testing.jacobian",
    "check_metric": "deepstruct.testing.metrics",
    "check_plugin": "deepstruct.testing.plugins",
    "check_rule": "deepstruct.testing.rules",
    "check_vjp": "deepstruct.testing.vjp",
    "count_paths": "deepstruct.testing.explicit",
    "generic_copy": "deepstruct.testing.build",
    "graph_support": "deepstruct.testing.explicit",
    "jacobian_support": "deepstruct.testing.jacobian",
    "parametrize_with_plugin_checks": "deepstruct.testing.plugins",
    "plugin_checks": "deepstruct.testing.plugins",
}

__all__ = [
    "OracleError",
    "Probe",
    "Support",
    "build_graph",
    "check_containment",
    "check_equality",
    "check_metric",
    "check_plugin",
    "check_rule",
    "check_vjp",
    "count_paths",
    "generic_copy",
    "graph_support",
    "jacobian_support",
    "parametrize_with_plugin_checks",
    "plugin_checks",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'deepstruct.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
