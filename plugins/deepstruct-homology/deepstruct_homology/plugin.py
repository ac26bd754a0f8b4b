"""The hooks. gudhi is imported when the first metric runs."""

from __future__ import annotations

from typing import Any

from deepstruct import hookimpl

deepstruct_api = 1


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """Persistent homology of the explicit graph, for the analyzer `igraph`."""
    from deepstruct_homology.metrics import METRICS

    return METRICS
