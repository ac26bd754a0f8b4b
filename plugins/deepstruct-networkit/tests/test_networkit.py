"""NetworKit's numbers beside networkx's, and on graphs of models."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.metrics.base import AnalysisContext
from deepstruct.plugin import Host, use_host
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing import check_plugin

pytest.importorskip("networkit", reason="NetworKit is not installed")

from deepstruct_networkit import plugin
from deepstruct_networkit.analyzer import NetworkitAnalyzer
from deepstruct_networkit.metrics import METRICS

BY_NAME = {metric.name.removeprefix("networkit_"): metric for metric in METRICS}


@pytest.fixture(autouse=True)
def host():
    with use_host(Host([("networkit", plugin)], entry_points=False)) as host:
        yield host


def simple(graph) -> nx.Graph:
    plain = nx.Graph(graph)
    plain.remove_edges_from(list(nx.selfloop_edges(plain)))
    return plain


def largest(graph) -> nx.Graph:
    plain = simple(graph)
    return plain.subgraph(max(nx.connected_components(plain), key=len))


REFERENCES = {
    "betweenness": lambda g: nx.betweenness_centrality(simple(g), normalized=True),
    "core_numbers": lambda g: nx.core_number(simple(g)),
    "degeneracy": lambda g: max(nx.core_number(simple(g)).values()),
    "diameter": lambda g: nx.diameter(largest(g)),
    "weak_components": lambda g: nx.number_connected_components(simple(g)),
    "strong_components": lambda g: nx.number_strongly_connected_components(nx.DiGraph(g)),
    "average_clustering": lambda g: nx.average_clustering(simple(g)),
}


def test_the_contract_and_agreement_with_networkx() -> None:
    metrics = {f"networkit_{name}": {"reference": reference} for name, reference in REFERENCES.items()}
    metrics["networkit_effective_diameter"] = {"skip": ("relabelling",)}  # rounds over nodes in their order
    assert set(check_plugin(("networkit", plugin), metrics=metrics).values()) == {"passed"}


def view(graph: nx.Graph, **settings):
    return NetworkitAnalyzer().prepare(StructureGraph.from_networkx(graph), AnalysisContext(settings=settings))


def test_sampled_betweenness_is_near_the_exact_one() -> None:
    graph = nx.barabasi_albert_graph(200, 2, seed=1)
    here = view(graph, networkit_epsilon=0.02)
    found = BY_NAME["betweenness_approx"].compute(here)
    exact = BY_NAME["betweenness"].compute(here)
    assert not found.exact
    assert found.residual == 0.02
    assert np.abs(np.asarray(found.value) - exact).max() < 0.04
    assert BY_NAME["betweenness_approx_max"].compute(here).value > 0.1


def test_communities_of_two_cliques() -> None:
    graph = nx.connected_caveman_graph(4, 8)
    here = view(graph)
    assert BY_NAME["communities"].compute(here) == 4
    expected = nx.community.modularity(graph, [set(range(8 * k, 8 * k + 8)) for k in range(4)])
    assert BY_NAME["modularity"].compute(here) == pytest.approx(expected)


def test_closeness_of_a_star() -> None:
    found = BY_NAME["closeness_approx_max"].compute(view(nx.star_graph(9)))
    assert found.value == pytest.approx(1.0)
    assert not found.exact


@pytest.mark.parametrize("order", ["zeroth", "first", "second"])
def test_on_a_model(order) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5)).eval()
    names = [metric.name for metric in METRICS]
    report = deepstruct.analyze(model, torch.randn(1, 1, 6, 6), orders=(order,), metrics=names)
    assert not report.skipped, report.skipped
    assert {row.analyzer for row in report.rows} == {"networkit"}
    assert {row.provider for row in report.rows} == {"networkit"}
    assert report[order]["networkit_weak_components"] == 1
    assert report[order]["networkit_strong_components"] == report.graphs[order].num_nodes


def test_a_wrong_setting_is_a_reason() -> None:
    model = nn.Linear(3, 2)
    report = deepstruct.analyze(
        model, torch.ones(1, 3), orders=("zeroth",), metrics=["networkit_betweenness_approx_max"],
        settings={"networkit_epsilon": 2.0},
    )  # fmt: skip
    (line,) = report.skipped
    assert "between 0 and 1" in line.reason


def test_what_does_not_fit_is_skipped_with_its_estimate() -> None:
    report = deepstruct.analyze(
        nn.Linear(300, 300), torch.ones(1, 300), orders=("zeroth",), metrics=["networkit_degeneracy"],
        max_memory=100_000,
    )  # fmt: skip
    (line,) = report.skipped
    assert line.estimate_bytes > 100_000
