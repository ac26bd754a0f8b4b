"""The igraph and networkx analyzers give the same value, or the same refusal, on any graph."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured
from deepstruct.metrics.explicit import METRICS

NAMES = sorted({metric.name for metric in METRICS})
TABLE = {(metric.name, metric.analyzer): metric for metric in METRICS}
EXACT = [name for name in NAMES if TABLE[name, "igraph"].exact]


@st.composite
def graphs(draw: st.DrawFn, acyclic: bool) -> dict[str, Any]:
    """Arguments of `plain`: a multigraph, sparse or dense, with any choice of inputs and outputs."""
    size = draw(st.integers(0, 12))
    if size == 0:
        return {"num_nodes": 0, "edges": []}
    node = st.integers(0, size - 1)
    pairs = draw(st.lists(st.tuples(node, node), max_size=draw(st.sampled_from([4, 12, 40]))))
    if acyclic:
        rank = draw(st.permutations(range(size)))
        pairs = [(u, v) if rank[u] < rank[v] else (v, u) for u, v in pairs if u != v]
    weight = st.one_of(st.none(), st.floats(-4, 4, allow_nan=False))
    return {
        "num_nodes": size,
        "edges": [(u, v, draw(weight)) for u, v in pairs],
        "inputs": sorted(draw(st.sets(node, max_size=4))),
        "outputs": sorted(draw(st.sets(node, max_size=4))),
        "space": draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)),
    }


def outcome(view: Any, name: str, analyzer: str) -> Any:
    """The value, or MetricError when the metric says that it is not defined here."""
    try:
        value = TABLE[name, analyzer].compute(view)
    except MetricError:
        return MetricError
    return value.value if isinstance(value, Measured) else value


def check(value: Any, name: str, num_nodes: int) -> None:
    """The form that each metric owes: plain numbers, no NaN, arrays per node."""
    if value is MetricError:
        return
    if TABLE[name, "igraph"].scope == "node":
        assert isinstance(value, np.ndarray)
        assert value.shape == (num_nodes,)
        return
    assert type(value) in (int, float), (name, type(value))
    assert math.isfinite(value)
    json.dumps(value, allow_nan=False)


def same(a: Any, b: Any) -> bool:
    if a is MetricError or b is MetricError:
        return a is b
    if isinstance(a, np.ndarray):
        return np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
    return a == b if type(a) is int and type(b) is int else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def views(graph: Any) -> dict[str, Any]:
    from deepstruct.analyzers.igraph import IgraphAnalyzer
    from deepstruct.analyzers.networkx import NetworkxAnalyzer
    from deepstruct.metrics.base import AnalysisContext

    few = {"removal_repeats": 1, "removal_fractions": (0.3, 0.7)}  # attack curves would take most of the time
    context = AnalysisContext(settings=few)
    return {a.name: a.prepare(graph, context) for a in (IgraphAnalyzer(), NetworkxAnalyzer())}


@pytest.mark.parametrize("acyclic", [True, False])
def test_both_analyzers_agree(plain: Any, acyclic: bool) -> None:
    defined: set[str] = set()

    @settings(max_examples=300, deadline=None)
    @given(graphs(acyclic))
    def compare(arguments: dict[str, Any]) -> None:
        graph = plain(**arguments)
        both = views(graph)
        for name in NAMES:
            fast, reference = (outcome(both[a], name, a) for a in ("igraph", "networkx"))
            check(fast, name, graph.num_nodes)
            check(reference, name, graph.num_nodes)
            if name in EXACT:
                assert same(fast, reference), (name, fast, reference)
            else:
                assert (fast is MetricError) == (reference is MetricError)
            if fast is not MetricError:
                defined.add(name)

    compare()
    assert defined == set(NAMES), "some metric was never defined: the comparison above said nothing of it"


def test_relabelling_the_nodes_changes_nothing(plain: Any) -> None:
    @settings(max_examples=150, deadline=None)
    @given(graphs(acyclic=False), st.randoms(use_true_random=False))
    def compare(arguments: dict[str, Any], random: Any) -> None:
        size = arguments["num_nodes"]
        new = list(range(size))
        random.shuffle(new)
        renamed = dict(arguments)
        renamed["edges"] = [(new[u], new[v], w) for u, v, w in arguments["edges"]]
        if size:
            for role in ("inputs", "outputs"):
                renamed[role] = [new[node] for node in arguments[role]]
            renamed["space"] = [arguments["space"][new.index(node)] for node in range(size)]
        before, after = views(plain(**arguments)), views(plain(**renamed))
        for name in EXACT:
            for analyzer in ("igraph", "networkx"):
                first, second = (
                    outcome(before[analyzer], name, analyzer),
                    outcome(after[analyzer], name, analyzer),
                )
                if isinstance(second, np.ndarray):
                    second = second[np.array(new, np.int64)]
                assert same(first, second), (name, analyzer, first, second)

    compare()


def test_every_metric_says_what_it_is() -> None:
    for metric in METRICS:
        assert metric.definition.endswith("."), metric.name
        twin = TABLE[metric.name, "networkx" if metric.analyzer == "igraph" else "igraph"]
        shared = ("definition", "source", "scope", "orders", "exact", "requires", "default", "cost")
        assert all(getattr(metric, field) == getattr(twin, field) for field in shared), metric.name
    assert len(TABLE) == len(METRICS)
