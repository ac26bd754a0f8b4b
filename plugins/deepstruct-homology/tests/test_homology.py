"""Complexes whose homology is known, boundary matrices as a witness, and graphs of models."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.plugin import Host, use_host
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing import check_plugin

pytest.importorskip("gudhi", reason="gudhi is not installed")

from deepstruct_homology import plugin
from deepstruct_homology.complex import flag_complex
from deepstruct_homology.metrics import METRICS


@pytest.fixture(autouse=True)
def host():
    with use_host(Host([("homology", plugin)], entry_points=False)) as host:
        yield host


def betti(graph: nx.Graph, top: int = 3) -> list[int]:
    """Betti numbers of the clique complex from the ranks of its boundary matrices over the rationals."""
    cliques = [tuple(sorted(c)) for c in nx.enumerate_all_cliques(graph)]
    by_size = [[c for c in cliques if len(c) == k] for k in range(1, top + 3)]
    ranks = [0]
    for lower, upper in itertools.pairwise(by_size):
        place = {c: k for k, c in enumerate(lower)}
        matrix = np.zeros((len(lower), len(upper)))
        for column, clique in enumerate(upper):
            for k in range(len(clique)):
                matrix[place[clique[:k] + clique[k + 1 :]], column] = (-1) ** k
        ranks.append(int(np.linalg.matrix_rank(matrix)) if matrix.size else 0)
    return [len(by_size[d]) - ranks[d] - ranks[d + 1] for d in range(top + 1)]


def cross_polytope(dimension: int) -> nx.Graph:
    """Its clique complex is a sphere of dimension `dimension`."""
    return nx.complete_multipartite_graph(*([2] * (dimension + 1)))


GRAPHS = {
    "circle": nx.cycle_graph(6), "sphere": cross_polytope(2), "three-sphere": cross_polytope(3),
    "clique": nx.complete_graph(5), "parts": nx.disjoint_union(nx.cycle_graph(4), cross_polytope(2)),
    **{f"random-{seed}": nx.gnp_random_graph(12, 0.5, seed=seed) for seed in range(4)},
}  # fmt: skip
KNOWN = {"circle": [1, 1, 0, 0], "sphere": [1, 0, 1, 0], "three-sphere": [1, 0, 0, 1], "clique": [1, 0, 0, 0],
         "parts": [2, 1, 1, 0]}  # fmt: skip


def measured(graph, *names: str, **options) -> dict:
    report = deepstruct.analyze(graph, orders=(graph.order,), metrics=list(names), **options)
    assert not report.skipped, report.skipped
    return {row.name: row.value for row in report.rows}


@pytest.mark.parametrize("name", GRAPHS)
def test_betti_numbers_beyond_one(name) -> None:
    values = measured(StructureGraph.from_networkx(GRAPHS[name]), *(f"flag_betti_{d}" for d in range(4)), "flag_euler")
    found = [values[f"flag_betti_{d}"] for d in range(4)]
    assert found == betti(GRAPHS[name])
    assert found == KNOWN.get(name, found)
    assert values["flag_euler"] == found[0] - found[1] + found[2] - found[3]


def spanning_forest(graph: nx.Graph) -> list[float]:
    """Weights of a maximum spanning forest, by networkx."""
    return [data["weight"] for _, _, data in nx.maximum_spanning_edges(graph, data=True)]


@pytest.mark.parametrize("seed", range(4))
def test_neural_persistence_of_the_whole_network(seed) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model[0].weight[torch.rand(4, 5) < 0.3] = 0
    graph = deepstruct.extract(model, torch.randn(1, 5))
    edges, plain = graph.edge_list(), nx.Graph()
    plain.add_nodes_from(range(edges.num_nodes))
    largest = np.abs(edges.weight).max()
    for a, b, w in zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True):
        plain.add_edge(a, b, weight=abs(w) / largest)
    tree = spanning_forest(plain)
    value = measured(graph, "network_neural_persistence")["network_neural_persistence"]
    assert value == pytest.approx(np.linalg.norm(1 - np.array(tree)) / np.sqrt(len(tree)))


def test_one_layer_agrees_with_the_metric_of_the_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, bias=False)
    graph = deepstruct.extract(layer, torch.randn(1, 6))
    values = measured(graph, "network_neural_persistence", "neural_persistence_finite")
    assert values["network_neural_persistence"] == pytest.approx(values["neural_persistence_finite"])


def test_a_square_with_a_late_diagonal() -> None:
    """A loop is born with the fourth edge, at 0.4, and filled in dimension 2 by the diagonal, at 0.9."""
    source, target, times = [0, 1, 2, 0, 0], [1, 2, 3, 3, 2], np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    found = flag_complex(4, source, target, times, 1, 1e6)
    assert found.essential == (1, 0)
    assert found.lengths(1).tolist() == pytest.approx([0.5])
    assert sorted(found.pairs[0][:, 1].tolist()) == pytest.approx([0.1, 0.2, 0.3])


def test_what_is_too_large_is_skipped_with_its_reason() -> None:
    graph = StructureGraph.from_networkx(nx.complete_graph(40))
    report = deepstruct.analyze(graph, metrics=["flag_betti_2"], settings={"max_simplices": 1000})
    (line,) = report.skipped
    assert "max_simplices" in line.reason


@pytest.mark.parametrize("order", ["zeroth", "first"])
def test_on_a_model(order) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5)).eval()
    graph = deepstruct.extract(model, torch.randn(1, 1, 6, 6), order=order)
    names = ["flag_betti_0", "flag_betti_1", "beta_0", "beta_1_simple"]
    values = measured(graph, *names)
    assert values["flag_betti_0"] == values["beta_0"]
    assert values["flag_betti_1"] == values["beta_1_simple"]  # layers have no triangles to fill loops


def test_the_contract() -> None:
    simple = lambda g: betti(nx.Graph(g))  # noqa: E731
    metrics = {f"flag_betti_{d}": {"reference": lambda g, d=d: simple(g)[d]} for d in range(4)}
    outcome = check_plugin(("homology", plugin), metrics=metrics)
    assert set(outcome.values()) == {"passed"}
    assert sum(name.startswith("metric ") for name in outcome) == len(METRICS)
