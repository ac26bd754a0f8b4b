"""A metric for the analyzer `operator`, whose view of a graph has the graph itself as `view.graph`."""

from __future__ import annotations

from typing import Any

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric


def edges_per_weight(view: Any) -> float:
    """Weight edges for each stored weight that is not zero: 1 for an MLP, more where weights are shared."""
    weights = view.graph.num_nonzero_weights
    if weights == 0:
        raise MetricError("no weight differs from zero")
    return float(view.graph.num_weight_edges / weights)


WEIGHT_REUSE = Metric(
    "edges_per_weight",
    "operator",
    edges_per_weight,
    orders=("zeroth",),
    definition="Weight edges for each stored weight that is not zero.",
)
