"""The operator analyzer: exact metrics from passes over edge operators, at any size."""

from __future__ import annotations

from typing import Any

from deepstruct.plugin.markers import hookimpl

__all__ = ["deepstruct_analyzers", "deepstruct_metrics"]

FAMILIES = (  # modules of this package with a list METRICS each
    "panel",
    "layers",
    "distribution",
    "flow",
    "distance",
    "cores",
    "reach",
    "spectral",
    "rank",
    "ramanujan",
    "weightwatch",
    "partition",
    "motifs",
    "robustness",
    "homology",
    "channels",
    "edge_paths",
    "signals",
    "hubs",
    "levels",
    "waste",
    "density",
)


@hookimpl
def deepstruct_analyzers() -> list[Any]:
    """The operator analyzer."""
    from deepstruct.analyzers.operator.view import OperatorAnalyzer

    return [OperatorAnalyzer()]


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """Its metrics of graph, layer and node scope."""
    from importlib import import_module

    modules = [import_module(f"deepstruct.analyzers.operator.{name}") for name in FAMILIES]
    return [metric for module in modules for metric in module.METRICS]
