"""Metrics: what a metric is (`base`), and one file per family of definitions.

This package brings the metrics of the igraph and networkx analyzers; the operator analyzer has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepstruct.plugin.markers import hookimpl

if TYPE_CHECKING:
    from deepstruct.metrics.base import Metric

__all__ = ["deepstruct_metrics"]


@hookimpl
def deepstruct_metrics() -> list[Metric]:
    """All metrics of the explicit graph."""
    from deepstruct.metrics.explicit import METRICS

    return METRICS
