"""The front door, from a user's side."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.errors import CapacityError, InputError, MetricError


def mlp(*widths, value=None):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    if value is not None:
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(value)
    return net


@pytest.fixture(scope="module")
def report():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    return deepstruct.analyze(net, torch.randn(1, 1, 4, 4))


def test_a_report_has_every_order(report):
    assert list(report) == ["zeroth", "first", "second", "third"]
    assert report["zeroth"]["weight_edges"] == 100 * 4 + 48
    assert isinstance(report["zeroth"]["weight_edges"], int)
    assert report["second"]["longest_path"] == 3
    assert "w != 0" in report.conventions["weight_edges"]
    assert all(line.reason for line in report.skipped)


def test_a_report_survives_json(report, tmp_path):
    report.to_json(tmp_path / "out.json")
    data = json.loads((tmp_path / "out.json").read_text())
    again = type(report).from_dict(data)
    assert again["zeroth"]["path_count"] == report["zeroth"]["path_count"]
    assert "weight_edges" in str(report)
    assert "<table" in report._repr_html_()


def test_layers_and_node_vectors():
    net = mlp(4, 3, 2, value=1.0)
    report = deepstruct.analyze(net, torch.randn(1, 4), orders="zeroth", metrics="all")
    layers = {row["layer"]: row for row in report.layers("zeroth")}
    assert layers["0"]["edges"] == 12
    assert layers["2"]["weights"] == 6
    degree = report.nodes("zeroth", "in_degree")
    assert degree["0"].shape == (1, 3)
    assert degree["0"].tolist() == [[4, 4, 4]]


def test_check_values_of_a_dense_mlp():
    net = mlp(4, 3, 2, value=1.0)
    row = deepstruct.analyze(net, torch.randn(1, 4), metrics="all")["zeroth"]
    assert (row["nodes"], row["edges"], row["path_count"]) == (9, 18, 24)
    assert row["density"] == 0.25
    assert row["core_number_max"] == row["core_number_mean"] == 3
    assert row["diameter"] == 2
    assert row["average_path_length"] == 1.5
    assert row["butterflies"] == 45
    graph = deepstruct.extract(net, torch.randn(1, 4))
    between = deepstruct.analyze(graph, metrics=["betweenness"]).nodes("zeroth", "betweenness")
    assert between["0"].tolist() == [pytest.approx([8 / 3] * 3)]


def test_check_values_of_a_masked_mlp():
    net = mlp(4, 3, 2)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]))
        net[2].weight.copy_(torch.tensor([[1.0, 0, 1], [0, 0, 1]]))
    row = deepstruct.analyze(net, torch.randn(1, 4), orders="zeroth")["zeroth"]
    assert row["edges"] == 6
    assert row["sparsity"] == pytest.approx(2 / 3)
    assert row["effective_edges"] == 3
    assert row["effective_sparsity"] == pytest.approx(5 / 6)
    assert (row["compression"], row["effective_compression"]) == (3.0, 6.0)
    assert row["effective_nodes"] == 4
    assert row["path_count"] == 2
    assert (row["dead_out"], row["dead_in"], row["isolated"]) == (1, 1, 0)
    assert row["weakly_connected_components"] == 3


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[1]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (Residual(), (1, 3), (8, 15, 21)),
        (LastState(), (1, 4, 2), (20, 51, 240)),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)), (1, 1, 4, 4), (64, 400, 1352)),
        (nn.Conv2d(2, 3, 3, padding=1), (1, 2, 5, 5), (125, 1014, 1014)),
        (nn.Conv2d(1, 1, 3, stride=2, padding=1), (1, 1, 6, 6), (45, 64, 64)),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 4, 4), (128, 400, 400)),
    ],
)
def test_check_values_of_small_networks(model, shape, expected):
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    row = deepstruct.analyze(model, torch.randn(shape), orders="zeroth")["zeroth"]
    assert (row["nodes"], row["edges"], row["path_count"]) == expected


def test_check_values_of_a_bottleneck():
    row = deepstruct.analyze(mlp(4, 1, 4, value=1.0), metrics=["bridges", "articulation_points", "min_vertex_cut"])
    assert dict(row["zeroth"]) == {"bridges": 8, "articulation_points": 1, "min_vertex_cut": 1}


def test_check_values_of_a_ring_lattice():
    ring = deepstruct.structure.graph.StructureGraph.from_networkx(nx.watts_strogatz_graph(16, 4, 0.0))
    row = deepstruct.analyze(ring, metrics=["average_clustering", "average_path_length"])["zeroth"]
    assert row["average_clustering"] == pytest.approx(0.5)
    assert row["average_path_length"] == pytest.approx(2.4)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_is_no_part_of_the_graph(batch):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    assert deepstruct.extract(net, torch.randn(batch, 1, 5, 5)).num_nodes == 25 + 18 + 2


def test_a_sequence_that_comes_first_is_no_batch():
    assert deepstruct.extract(nn.RNN(2, 3), torch.randn(4, 1, 2)).num_nodes == 20
    assert deepstruct.extract(nn.RNN(2, 3), torch.randn(4, 6, 2)).num_nodes == 20
    assert deepstruct.extract(nn.RNN(2, 3), torch.randn(4, 2)).num_nodes == 20


def test_inputs_in_every_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 2)

        def forward(self, x, other=None):
            return self.a(x) if other is None else self.a(x) + other

    x, y = torch.randn(1, 3), torch.randn(1, 2)
    assert deepstruct.extract(Two(), x).num_nodes == 5
    assert deepstruct.extract(Two(), (x, y)).num_nodes == 7
    assert deepstruct.extract(Two(), {"x": x, "other": y}).num_nodes == 7
    assert deepstruct.extract(Two(), x, example_kwargs={"other": y}).num_nodes == 7
    assert deepstruct.extract(mlp(4, 3, 2)).num_nodes == 9


def test_density_and_threshold_cut():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    report = deepstruct.analyze(net, torch.randn(1, 20), orders="zeroth", density=0.1)
    assert report["zeroth"]["nonzero_weights"] == 90
    assert "0.1 of all weights" in report.conventions["weight_edges"]
    magnitudes = torch.cat([p.detach().abs().flatten() for p in net.parameters() if p.dim() == 2])
    cut = deepstruct.extract(net, torch.randn(1, 20), threshold=0.1)
    assert cut.num_weight_edges == int((magnitudes > 0.1).sum())
    assert deepstruct.extract(net, torch.randn(1, 20), density=1.0).num_weight_edges == 900


def test_a_metric_that_needs_too_much_is_skipped_with_its_estimate():
    net = mlp(40, 40, 40)
    report = deepstruct.analyze(net, orders="zeroth", metrics=["edges", "triangles"], max_memory=50_000)
    assert report["zeroth"]["edges"] == 3200
    (line,) = [s for s in report.skipped if s.name == "triangles"]
    assert line.estimate_bytes > 50_000
    with pytest.raises(MetricError, match="max_memory"):
        report["zeroth"]["triangles"]


def test_exports_agree_with_the_graph():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    graph = deepstruct.extract(net, torch.randn(1, 1, 3, 3))
    wide, arrays, rows = graph.to_networkx(), graph.to_scipy(), graph.to_igraph()
    assert wide.number_of_nodes() == arrays.shape[0] == rows.vcount() == graph.num_nodes
    assert wide.number_of_edges() == arrays.sum() == rows.ecount() == graph.num_edges
    pairs = sorted(zip(*map(np.ndarray.tolist, arrays.nonzero()), strict=True))
    assert sorted(wide.edges()) == sorted(rows.get_edgelist()) == pairs
    stored = {round(float(p), 5) for layer in (net[0], net[3]) for p in layer.weight.detach().flatten()}
    assert {round(d["weight"], 5) for *_, d in wide.edges(data=True)} <= stored
    assert wide.nodes[0]["role"] == "input"
    assert graph.to_scipy(weights=True).sum() == pytest.approx(sum(d["weight"] for *_, d in wide.edges(data=True)))
    for export in (graph.to_networkx, graph.to_igraph, graph.to_scipy, graph.edge_list):
        with pytest.raises(CapacityError, match="GiB"):
            export(max_memory=1000)


def test_a_graph_and_the_orders_above_it():
    graph = deepstruct.extract(mlp(3, 4, 2), order="first")
    assert list(deepstruct.analyze(graph)) == ["first"]
    report = deepstruct.analyze(graph, orders=("first", "second"))
    assert (report["first"]["nodes"], report["second"]["nodes"]) == (9, 3)
    with pytest.raises(InputError, match="below"):
        deepstruct.analyze(graph, orders="zeroth")


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="zeroth"):
        deepstruct.analyze(mlp(2, 2), orders=("zeroeth",))
    with pytest.raises(MetricError, match="edges"):
        deepstruct.analyze(mlp(2, 2), metrics=["egdes"])
    with pytest.raises(MetricError, match="operator"):
        deepstruct.analyze(mlp(2, 2), analyzer="operater")


def test_progress_is_reported():
    seen = []
    deepstruct.analyze(mlp(3, 2), progress=lambda what, done, total: seen.append((what, done, total)))
    assert any(what == "trace" for what, *_ in seen)
    assert len(seen) > 20


def test_import_is_light():
    code = (
        "import sys, deepstruct\n"
        "heavy = {'torch', 'igraph', 'networkx', 'scipy', 'matplotlib', 'pandas', 'rich', 'click', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
