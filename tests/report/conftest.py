"""A report with a value of every kind, and one measured on a real graph."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest

from deepstruct.metrics.base import MetricValue, Skipped
from deepstruct.report import Report

LONG = 3**300


def value(name: str, order: str, number: Any, scope: Any = "graph", **more: Any) -> MetricValue:
    return MetricValue(name, order, scope, number, more.pop("analyzer", "operator"), **more)


@pytest.fixture
def report() -> Report:
    return Report(
        "Net",
        [
            value("nodes", "zeroth", 1234567, definition="Number of nodes.", source="folklore", seconds=0.25),
            value("nodes", "first", 12),
            value("path_count", "zeroth", LONG),
            value("density", "zeroth", 0.001953125),
            value("modularity", "first", -0.4142, analyzer="igraph", exact=False, note="Louvain"),
            value("radius", "zeroth", 15.25, exact=False, residual=1e-3, converged=False),
            value("layer_edges", "zeroth", {"fc1": 30, "fc2": 6}, "layer"),
            value("layer_density", "zeroth", {"fc1": 0.5}, "layer"),
            value("depth", "zeroth", np.array([0.0, np.nan, 2.0]), "node"),
            value("in_degree", "zeroth", np.array([0, 3, 1]), "node"),
        ],
        [
            Skipped("diameter", "zeroth", "needs about 4 GiB, more than the budget", estimate_bytes=4 << 30),
            Skipped("modularity", "zeroth", "takes too many steps"),
            Skipped("third", "third", "the partition has one cell", "order"),
        ],
        {"padding": "padding makes no edges", "zero test": "a weight is an edge when it is not 0"},
        ["one sample of the batch counts"],
        settings={"orders": ("zeroth", "first"), "metrics": None, "partition": len},
    )


@pytest.fixture
def measured() -> Report:
    """A 4-3-2 feed-forward graph with names, measured by igraph."""
    from types import SimpleNamespace

    from deepstruct.analyzers.igraph import IgraphAnalyzer
    from deepstruct.analyzers.select import analyze_graph
    from deepstruct.metrics.explicit import METRICS
    from deepstruct.structure.graph import StructureGraph

    net = nx.DiGraph()
    net.add_edges_from([(f"x{i}", f"h{j}") for i in range(4) for j in range(3)], weight=1.0)
    net.add_edges_from([(f"h{j}", f"y{k}") for j in range(3) for k in range(2)], weight=-1.0)
    graph = StructureGraph.from_networkx(net)
    registry: Any = SimpleNamespace(
        analyzers=[IgraphAnalyzer()], metrics=METRICS, provider_of=lambda thing: "deepstruct"
    )
    rows, skipped = analyze_graph(graph, "all", registry=registry)
    return Report("Net", rows, skipped, graph.conventions, graphs={"zeroth": graph})
