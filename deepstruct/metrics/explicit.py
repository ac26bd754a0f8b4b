"""All metrics of the igraph and networkx analyzers, family by family."""

from __future__ import annotations

from deepstruct.metrics import (
    assortativity,
    centrality,
    clustering,
    community,
    connectivity,
    degree,
    distance,
    homology,
    partition,
    paths,
    reachability,
    robustness,
    size,
)
from deepstruct.metrics.base import Metric

FAMILIES = (
    size,
    degree,
    reachability,
    paths,
    connectivity,
    distance,
    clustering,
    assortativity,
    centrality,
    community,
    robustness,
    homology,
    partition,
)
METRICS: list[Metric] = [metric for family in FAMILIES for metric in family.METRICS]
