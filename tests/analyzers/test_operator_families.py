"""Families of the operator analyzer: known values, samples and their errors, settings, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator import distribution
from deepstruct.analyzers.operator.sampling import Sample
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext, Measured
from deepstruct.plugin.current import get_host
from deepstruct.structure.graph import StructureGraph
from tests.engine.explicit import directed, net, small


def measure(graph, name, analyzer="operator", **settings):
    registry = get_host().registry()
    tool = next(a for a in registry.analyzers if a.name == analyzer)
    metric = next(m for m in registry.metrics if m.name == name and m.analyzer == analyzer)
    found = metric.compute(tool.prepare(graph, AnalysisContext(settings=settings)))
    return found if isinstance(found, Measured) else Measured(found)


def perceptron(*widths):
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*layers), torch.randn(1, widths[0])


@pytest.fixture
def mlp432():
    return deepstruct.extract(*perceptron(4, 3, 2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("path_length_mean", 2.0),
        ("path_length_variance", 0.0),
        ("path_distribution_entropy", math.log(24)),
        ("path_centrality_max", 1 / 3),
        ("multigraph_core_number_mean", 3.0),
        ("multigraph_core_number_max", 3),
        ("diameter_lower_bound", 2),
        ("average_path_length_sampled", 1.5),
        ("global_efficiency_sampled", (18 + 18 / 2) / 36),
        ("betweenness_sampled_max", 8 / 3),
        ("betweenness_sampled_mean", 8 / 9),
        ("directed_average_path_length_sampled", (18 + 2 * 8) / (18 + 8)),
        ("descendants", 5),
        ("ancestors", 7),
        ("input_output_reach", 1.0),
        ("neighborhood_mean", 3.0),
        ("multigraph_assortativity", -1.0),
        ("assortativity", -1.0),
        # out-degrees 3, 3, 3, 3, 2, 2, 2, 0, 0 around their mean of 2
        ("out_degree_skewness", (4 - 16) / 9 / (12 / 9) ** 1.5),
    ],
)
def test_dense_perceptron(mlp432, name, expected):
    assert measure(mlp432, name).value == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_residual_block():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 3)

        def forward(self, x):
            return x + self.second(torch.relu(self.first(x)))

    graph = deepstruct.extract(Residual(), torch.randn(1, 3))
    assert json.loads(measure(graph, "path_length_counts").value) == {"1": 3, "2": 18}
    assert measure(graph, "path_length_mean").value == pytest.approx(39 / 21)
    share = measure(graph, "path_centrality").value
    assert share == pytest.approx([7 / 21] * 3 + [9 / 21] * 2 + [7 / 21] * 3)
    choice = measure(graph, "path_entropy").value
    skip = -(1 / 7) * math.log(1 / 7) - 2 * (3 / 7) * math.log(3 / 7)
    assert choice == pytest.approx([skip] * 3 + [math.log(3)] * 2 + [0.0] * 3)


def test_signed_strengths_and_weights():
    model, x = perceptron(2, 2, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        model[1].weight.copy_(torch.tensor([[2.0, -1.0]]))
    graph = deepstruct.extract(model, x)
    assert measure(graph, "signed_strength_in").value.tolist() == [0, 0, -1, 3, 1]
    assert measure(graph, "signed_strength_out").value.tolist() == [1, 1, 2, -1, 0]
    layers = list(measure(graph, "layer_strength_fluctuation").value.values())
    assert layers == pytest.approx([0.0, 0.5, 0.0])  # strengths 1, 1 | 1, 2 | 1
    assert list(measure(graph, "layer_weight_mean").value.values()) == pytest.approx([2 / 3, 0.5])
    variances = list(measure(graph, "layer_weight_variance").value.values())
    assert variances == pytest.approx([float(np.var([1, -2, 3])), 2.25])


def test_tied_weights_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNN(2, 2, batch_first=True, bias=False)

        def forward(self, x):
            return self.cell(x)[0]

    model = Twice()
    one, three = (deepstruct.extract(model, torch.randn(1, n, 2)) for n in (1, 3))
    weights = model.cell.weight_ih_l0.detach().double()
    # the first step reads no earlier state: its layer has the input weights alone
    assert weights.mean().item() in [pytest.approx(v) for v in measure(one, "layer_weight_mean").value.values()]
    both = torch.cat([weights.reshape(-1), model.cell.weight_hh_l0.detach().double().reshape(-1)])
    assert float(both.mean()) in [pytest.approx(v) for v in measure(three, "layer_weight_mean").value.values()]


# -- samples


@pytest.mark.parametrize("seed", [0, 2, 9])
def test_a_sample_of_all_nodes_is_exact(seed):
    graph = small(seed)
    n = graph.num_nodes
    for sampled, exact in (
        ("average_path_length_sampled", "average_path_length"),
        ("global_efficiency_sampled", "global_efficiency"),
        ("closeness_sampled", "closeness"),
        ("harmonic_centrality_sampled", "harmonic_centrality"),
    ):
        found = measure(graph, sampled, samples=n)
        assert np.allclose(found.value, measure(graph, exact, "igraph").value)
        assert found.exact
        assert found.note == "all nodes"
    eccentricity = measure(graph, "eccentricity", "igraph").value
    lower, upper = (measure(graph, f"eccentricity_{side}_bound", samples=n).value for side in ("lower", "upper"))
    assert (lower == eccentricity).all()  # every node is its own pivot
    assert (upper == eccentricity).all()
    low, high = (measure(graph, f"diameter_{side}_bound").value for side in ("lower", "upper"))
    assert low <= measure(graph, "diameter", "igraph").value <= high


def test_samples_come_with_their_error():
    graph = net(0)
    exact = measure(graph, "average_path_length", "igraph").value
    values = []
    for seed in range(6):
        found = measure(graph, "average_path_length_sampled", samples=12, sample_seed=seed)
        error = float(found.note.rsplit(" ", 1)[1])
        assert not found.exact
        assert f"12 of {graph.num_nodes} nodes sampled" in found.note
        assert abs(found.value - exact) < 5 * error
        values.append(found.value)
    assert len(set(values)) > 1
    with pytest.raises(MetricError, match="samples"):
        measure(graph, "average_path_length_sampled", samples=0)


def test_standard_errors_cover():
    """Of 400 samples of a known population about 95 in 100 are within two standard errors, for means and ratios."""
    rng = np.random.default_rng(0)
    below = rng.integers(1, 50, 500).astype(float)
    above = below * rng.normal(3, 1, 500)
    hits = {"ratio": 0, "mean": 0}
    for _ in range(400):
        chosen = rng.choice(500, 100, replace=False)
        drawn = Sample(torch.from_numpy(chosen), 500)
        ratio = above[chosen].sum() / below[chosen].sum()
        hits["ratio"] += abs(ratio - above.sum() / below.sum()) < 2 * drawn.error_of_ratio(above[chosen], below[chosen])
        hits["mean"] += abs(above[chosen].mean() - above.mean()) < 2 * drawn.error_of_mean(above[chosen])
    assert all(0.91 < count / 400 < 0.985 for count in hits.values()), hits
    assert Sample(torch.arange(500), 500).error_of_mean(above) == 0.0


def test_estimates_of_betweenness_scale_up():
    graph = deepstruct.extract(*perceptron(30, 20, 10))
    found = measure(graph, "betweenness_sampled", samples=15)
    assert not found.exact
    exact = nx.betweenness_centrality(directed(graph), normalized=False)
    exact = np.array([exact[k] for k in range(graph.num_nodes)])
    assert found.value[30:50].mean() == pytest.approx(exact[30:50].mean(), rel=0.6)


# -- receptive fields and reach


def test_receptive_fields_of_convolutions():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))
    graph = deepstruct.extract(model, torch.randn(1, 1, 8, 8))
    assert list(measure(graph, "layer_receptive_field_max").value.values()) == [1, 9, 25]
    axis = [np.array([2, *[3] * 6, 2]), np.array([3, 4, *[5] * 4, 4, 3])]
    means = [1.0, *(float(np.outer(a, a).mean()) for a in axis)]
    found = measure(graph, "layer_receptive_field_mean")
    assert list(found.value.values()) == pytest.approx(means)
    assert found.exact
    nodes = measure(graph, "receptive_field").value
    assert nodes[:64].tolist() == [1] * 64
    assert nodes[-64:].tolist() == np.outer(axis[1], axis[1]).reshape(-1).tolist()


def test_receptive_fields_of_many_inputs_are_sampled():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(33 * 33, 2))
    graph = deepstruct.extract(model, torch.randn(1, 1, 35, 35))
    found = measure(graph, "layer_receptive_field_mean", samples=20)
    assert list(found.value.values()) == [1.0, 9.0, 35 * 35]
    assert not found.exact
    assert "20 units" in found.note
    with pytest.raises(MemoryError, match="1225 inputs"):
        measure(graph, "receptive_field")


@pytest.mark.parametrize("seed", [1, 4, 6])
def test_descendants_of_given_nodes(seed):
    graph = net(seed)
    explicit = directed(graph)
    chosen = np.random.default_rng(seed).choice(graph.num_nodes, 3, replace=False).tolist()
    for name, search in (("descendants", nx.descendants), ("ancestors", nx.ancestors)):
        expected = len(set().union(*(search(explicit, node) for node in chosen)) - set(chosen))
        for analyzer in ("operator", "igraph", "networkx"):
            assert measure(graph, name, analyzer, nodes=chosen).value == expected
    for analyzer in ("operator", "igraph"):
        with pytest.raises(MetricError, match=r"nodes.*\[100000\]"):
            measure(graph, "descendants", analyzer, nodes=[0, 100000])


def test_a_sample_of_outputs_estimates_the_reach():
    model, x = perceptron(200, 150)
    with torch.no_grad():
        model[0].weight.mul_(torch.rand_like(model[0].weight) < 0.3)
    graph = deepstruct.extract(model, x)
    exact = measure(graph, "input_output_reach", "igraph").value
    assert measure(graph, "input_output_reach", samples=150).value == pytest.approx(exact)
    found = measure(graph, "input_output_reach", samples=40)
    assert not found.exact
    assert abs(found.value - exact) < 5 * float(found.note.rsplit(" ", 1)[1])


# -- tails


@pytest.fixture(scope="module")
def heavy():
    return StructureGraph.from_networkx(nx.barabasi_albert_graph(1500, 3, seed=1))


def test_power_law_of_a_scale_free_graph(heavy, monkeypatch):
    alpha = measure(heavy, "power_law_alpha")
    assert 2.2 < alpha.value < 3.6
    assert not alpha.exact
    assert measure(heavy, "power_law_xmin").value >= 3
    assert 0 < measure(heavy, "power_law_distance").value < 0.1
    against = measure(heavy, "power_law_vs_exponential")
    assert against.value > 2
    assert against.note.startswith("p = ")
    assert math.isfinite(measure(heavy, "power_law_vs_lognormal").value)
    monkeypatch.setattr(distribution, "_FITTED", 700)
    assert "700 of 1500 nodes" in measure(heavy, "power_law_alpha").note


def test_steep_power_laws_are_not_cut_at_three():
    """The package's own range of exponents ends at 3."""
    degrees = np.random.default_rng(0).zipf(4.5, 3000)
    stars = nx.disjoint_union_all([nx.star_graph(int(d)) for d in degrees if d > 1])
    steep = measure(StructureGraph.from_networkx(nx.DiGraph(stars.edges())), "power_law_alpha").value
    assert 4 < steep < 5.5


def test_power_law_refuses_what_has_no_tail(monkeypatch):
    ring = StructureGraph.from_networkx(nx.cycle_graph(6))
    with pytest.raises(MetricError, match="no tail"):
        measure(ring, "power_law_alpha")
    monkeypatch.setitem(sys.modules, "powerlaw", None)
    with pytest.raises(MetricError, match=r"deepstruct\[powerlaw\]"):
        measure(ring, "power_law_alpha")


# -- what is refused


def test_equal_degrees_have_no_skewness():
    ring = StructureGraph.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))
    for analyzer in ("operator", "igraph", "networkx"):
        for name in ("degree_skewness", "in_degree_kurtosis"):
            with pytest.raises(MetricError, match="not defined"):
                measure(ring, name, analyzer)


def test_parallel_edges_go_to_the_explicit_graph():
    graph = nx.MultiDiGraph([(0, 1), (0, 1), (0, 2), (1, 3), (2, 3), (3, 4)])
    structure = StructureGraph.from_networkx(graph)
    with pytest.raises(MemoryError, match="parallel"):
        measure(structure, "assortativity")
    assert measure(structure, "multigraph_assortativity").value == pytest.approx(
        measure(structure, "multigraph_assortativity", "networkx").value
    )
    plain, multi = (measure(structure, f"{p}assortativity", "igraph").value for p in ("", "multigraph_"))
    assert plain != pytest.approx(multi)


def test_registers_fit_the_memory_budget():
    graph = small(0)
    registry = get_host().registry()
    metric = next(m for m in registry.metrics if m.name == "average_path_length_hyperball")
    view = OperatorAnalyzer().prepare(graph, AnalysisContext(max_memory=1 << 20, settings={"hyperball_log2m": 20}))
    with pytest.raises(MetricError, match="hyperball_log2m"):
        metric.compute(view)
    found = measure(graph, "average_path_length_hyperball", hyperball_log2m=8)
    exact = measure(graph, "average_path_length", "igraph").value
    assert found.value == pytest.approx(exact, rel=0.1)
    assert "0.065" in found.note


def test_weights_without_values_have_no_magnitudes():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    graph = deepstruct.extract(model, torch.randn(1, 3, device="meta"))
    for name in ("weighted_path_entropy", "widest_path", "layer_weight_mean", "weighted_path_centrality"):
        with pytest.raises(MetricError, match="no values"):
            measure(graph, name)
    assert measure(graph, "path_length_mean").value == 2.0
