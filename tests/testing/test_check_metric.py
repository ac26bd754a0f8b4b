"""check_metric passes honest metrics and names what is wrong with others."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.plugin import Host, use_host
from deepstruct.testing import OracleError, check_metric
from deepstruct.testing.metrics import METRIC_CHECKS

BUILT_IN = (
    "nodes", "edges", "density", "longest_path", "path_count", "weakly_connected_components", "average_clustering",
    "beta_1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def host():
    with use_host(Host(entry_points=False)) as host:
        yield host


def metric(compute, analyzer: str = "igraph", **options) -> Metric:
    return Metric("mine", analyzer, compute, definition="A test.", **options)


def sum_of_ids(view):
    return int((view.edges.source * view.edges.target).sum())


def fails_without_nodes(view):
    return 1 / view.num_nodes


def needs_an_edge(view):
    return float(view.edges.weight.max())


def fails_on_isolated(view):
    reached = set(view.edges.source.tolist()) | set(view.edges.target.tolist())
    if 1 < view.num_nodes != len(reached):
        raise IndexError("no edge at a node")
    return 1.0


class Drifting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, view):
        self.calls += 1
        return self.calls


def scales(view):
    for op in view.graph.operators:
        if op.weight is not None:
            op.weight.tensor.mul_(2)
    return 1.0


WRONG = {
    "empty": (metric(fails_without_nodes), {}, "ZeroDivisionError"),
    "single_node": (metric(needs_an_edge), {"skip": ("empty",)}, "ValueError"),
    "disconnected": (metric(fails_on_isolated), {}, "IndexError"),
    "relabelling": (metric(sum_of_ids), {}, "other names"),
    "range": (metric(lambda view: view.num_nodes), {"bounds": (0, 3)}, "not in"),
    "json": (metric(lambda view: float(view.num_nodes)), {}, ""),
    "deterministic": (metric(Drifting()), {"skip": ("relabelling",)}, "measured twice"),
    "untouched": (metric(scales), {"skip": ("deterministic",)}, "changed the weights"),
    "reference": (
        metric(lambda view: view.num_nodes + 1), {"reference": nx.MultiDiGraph.number_of_nodes}, "beside the reference"
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", [c for c in METRIC_CHECKS if c != "json"])
def test_a_wrong_metric_is_named_by_its_check(check) -> None:
    wrong, options, words = WRONG[check]
    with pytest.raises(OracleError, match=f"^{check}: mine.*{words}"):
        check_metric(wrong, **options)


def test_what_json_cannot_hold_is_named() -> None:
    nan = metric(lambda view: np.full(view.num_nodes, np.nan), scope="node")
    with pytest.raises(OracleError, match=r"^json: mine on graph 'single_node' is no JSON value"):
        check_metric(nan)


@pytest.mark.parametrize("analyzer", ["operator", "igraph", "networkx"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_metrics_pass(name, analyzer, host) -> None:
    found = [m for m in host.registry().metrics if (m.name, m.analyzer) == (name, analyzer)]
    for each in found:
        check_metric(each)
    assert found or analyzer == "operator", "a metric of this name is expected"


def test_node_scope_and_a_reference_by_node() -> None:
    def degrees(view):
        return np.bincount(view.edges.source, minlength=view.num_nodes)

    check_metric(metric(degrees, scope="node"), reference=lambda graph: dict(graph.out_degree()), bounds=(0, 20))
    by_place = metric(lambda view: np.arange(view.num_nodes), scope="node")
    with pytest.raises(OracleError, match=r"^relabelling"):
        check_metric(by_place)


def test_undefined_is_an_answer() -> None:
    def connected_only(view):
        raise MetricError("not here")

    check_metric(metric(connected_only))


def test_bounds_may_stand_in_the_metric() -> None:
    with pytest.raises(OracleError, match=r"not in \[0, 1\]"):
        check_metric(metric(lambda view: view.num_edges, bounds=(0, 1)))


def test_unknown_checks_and_analyzers_are_refused() -> None:
    with pytest.raises(OracleError, match="no check is called"):
        check_metric(metric(len), skip=("nonsense",))
    with pytest.raises(OracleError, match="no analyzer is called 'mars'"):
        check_metric(metric(len, analyzer="mars"))
