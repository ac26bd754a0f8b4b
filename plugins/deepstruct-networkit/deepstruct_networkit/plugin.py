"""The hooks. NetworKit is imported when the first view is made."""

from __future__ import annotations

from typing import Any

from deepstruct import hookimpl

deepstruct_api = 1


@hookimpl
def deepstruct_analyzers() -> list[Any]:
    """The analyzer `networkit`."""
    from deepstruct_networkit.analyzer import NetworkitAnalyzer

    return [NetworkitAnalyzer()]


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """Its metrics."""
    from deepstruct_networkit.metrics import METRICS

    return METRICS
