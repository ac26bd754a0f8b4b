"""All analyzers give one answer on graphs that come through the structure room."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.analyzers.igraph import IgraphAnalyzer
from deepstruct.analyzers.networkx import NetworkxAnalyzer
from deepstruct.analyzers.operator import cores, distribution, flow, panel, reach
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.analyzers.select import analyze_graph
from deepstruct.metrics.explicit import METRICS as EXPLICIT
from deepstruct.structure.graph import StructureGraph

OPERATOR = [metric for family in (panel, distribution, flow, cores, reach) for metric in family.METRICS]
# through operators only where no edges are parallel, and left to the others elsewhere
LEFT = {"assortativity"}
SHARED = sorted(({m.name for m in OPERATOR} & {m.name for m in EXPLICIT}) - LEFT)
REGISTRY: Any = SimpleNamespace(
    analyzers=[OperatorAnalyzer(), IgraphAnalyzer(), NetworkxAnalyzer()],
    metrics=[*OPERATOR, *EXPLICIT],
    provider_of=lambda thing: "",
)


@st.composite
def networks(draw: st.DrawFn, acyclic: bool) -> StructureGraph:
    size = draw(st.integers(1, 12))
    node = st.integers(0, size - 1)
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(range(size))
    for u, v in draw(st.lists(st.tuples(node, node), max_size=30)):
        if acyclic and u == v:
            continue
        weight = draw(st.sampled_from([None, 0.5, -2.0]))
        ends = (min(u, v), max(u, v)) if acyclic else (u, v)
        graph.add_edge(*ends, **({} if weight is None else {"weight": weight}))
    inputs, outputs = (sorted(draw(st.sets(node, max_size=4))) for _ in range(2))
    return StructureGraph.from_networkx(graph, inputs=inputs, outputs=outputs)


def results(graph: StructureGraph, analyzer: str) -> dict[str, Any]:
    """Value or None (skipped as not defined here) of every shared metric."""
    values, skipped = analyze_graph(graph, SHARED, analyzer, registry=REGISTRY)
    assert not [line for line in skipped if line.reason.startswith("failed")], skipped
    assert {row.name for row in values} | {line.name for line in skipped} == set(SHARED)
    return {row.name: row.value for row in values}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
    if a is None or b is None or (type(a) is int and type(b) is int):
        return bool(a == b)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


@pytest.mark.parametrize("acyclic", [True, False])
def test_operator_igraph_and_networkx_agree(acyclic: bool) -> None:
    seen: set[str] = set()

    @settings(max_examples=120, deadline=None)
    @given(networks(acyclic))
    def compare(graph: StructureGraph) -> None:
        reference = results(graph, "networkx")
        for analyzer in ("operator", "igraph"):
            found = results(graph, analyzer)
            for name in SHARED:
                assert same(found.get(name), reference.get(name)), (
                    name,
                    analyzer,
                    found.get(name),
                    reference.get(name),
                )
        seen.update(reference)

    compare()
    assert seen == set(SHARED), "some metric was never defined: nothing was compared"
