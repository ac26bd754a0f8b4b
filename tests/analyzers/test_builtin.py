"""The built-in analyzers and metrics reach an analysis through the hooks that any plugin uses."""

from __future__ import annotations

from typing import Any

import networkx as nx

from deepstruct.analyzers.select import analyze_graph
from deepstruct.metrics.explicit import METRICS
from deepstruct.plugin.host import Host
from deepstruct.structure.graph import StructureGraph


def test_the_hosts_registry_serves_an_analysis() -> None:
    host = Host(entry_points=False)
    host.load()
    registry: Any = host.registry()
    assert {a.name for a in registry.analyzers} >= {"operator", "igraph", "networkx"}
    offered = {(m.name, m.analyzer) for m in registry.metrics}
    assert {(m.name, m.analyzer) for m in METRICS} <= offered

    graph = StructureGraph.from_networkx(nx.DiGraph([(0, 2), (1, 2), (2, 3)]))
    values, skipped = analyze_graph(graph, registry=registry)
    found = {row.name: row for row in values}
    assert found["path_count"].value == 2
    assert found["path_count"].analyzer == "operator"
    assert found["diameter"].analyzer == "igraph"
    assert found["diameter"].provider.startswith("deepstruct")
    assert not [line for line in skipped if line.reason.startswith("failed")], skipped
