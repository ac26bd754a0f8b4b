"""The operator analyzer: exact metrics from passes over edge operators, at any size."""

from __future__ import annotations

from typing import Any

from deepstruct.plugin.markers import hookimpl

__all__ = ["deepstruct_analyzers", "deepstruct_metrics"]


@hookimpl
def deepstruct_analyzers() -> list[Any]:
    """The operator analyzer."""
    from deepstruct.analyzers.operator.view import OperatorAnalyzer

    return [OperatorAnalyzer()]


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """Its metrics of graph, layer and node scope."""
    from deepstruct.analyzers.operator import layers, panel

    return [*panel.METRICS, *layers.METRICS]
