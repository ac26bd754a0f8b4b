"""Null models: the same weights at random places, and z-scores against them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from click.testing import CliRunner
from random_nets import random_net
from torch import nn

import deepstruct
from deepstruct.analyzers.null import FIXED, null_models, score
from deepstruct.errors import InputError
from deepstruct.structure.reweigh import stored_weights


def sparse_net(keep: float = 0.3) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.mul_(torch.rand(layer.weight.shape) < keep)
    return net


@pytest.mark.parametrize("seed", range(20))
def test_every_tensor_keeps_its_values(seed: int) -> None:
    net, x = random_net(seed)
    graph = deepstruct.extract(net, x)
    before = stored_weights(graph)
    moved = 0
    for null in null_models(graph, 2, seed=1):
        after = stored_weights(null)
        assert list(after) == list(before)
        for key, weight in before.items():
            assert torch.equal(weight.possible, after[key].possible)
            assert torch.equal(weight.values.sort().values, after[key].values.sort().values)
            outside = ~weight.possible
            assert torch.equal(weight.values[outside], after[key].values[outside])
            moved += int((weight.values != after[key].values).sum())
        assert (null.num_weights, null.num_nonzero_weights) == (graph.num_weights, graph.num_nonzero_weights)
    assert moved > 0


@pytest.mark.parametrize("cut", [{"threshold": 0.2}, {"density": 0.3}])
def test_cuts_move_with_the_magnitudes(cut: dict[str, float]) -> None:
    graph = deepstruct.extract(sparse_net(1.0), torch.randn(1, 8), **cut)
    patterns = []
    for null in null_models(graph, 3):
        assert null.operator_edges == graph.operator_edges
        patterns.append(null.edge_list().target.tolist())
    assert patterns[0] != patterns[1]


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(torch.relu(self.a(x)))

    net = Tied().eval()
    with torch.no_grad():
        net.a.weight.mul_(torch.rand(4, 4) < 0.4)
    for null in null_models(deepstruct.extract(net, torch.randn(1, 4)), 3):
        first, second = (op.weight.tensor for op in null.operators)
        assert torch.equal(first, second)


def test_positions_are_drawn_evenly() -> None:
    """Each of the 12 positions of a layer with 3 weights holds one in a quarter of the null models."""
    net = nn.Linear(4, 3, bias=False).eval()
    with torch.no_grad():
        net.weight.zero_()
        net.weight[0, :3] = 1
    graph = deepstruct.extract(net, torch.randn(1, 4))
    draws = 1200
    counts = sum((next(iter(stored_weights(null).values())).values for null in null_models(graph, draws)),
                 start=torch.zeros(12))  # fmt: skip
    assert torch.allclose(counts / draws, torch.full((12,), 0.25), atol=0.06)


def test_the_draws_depend_on_the_seed_alone() -> None:
    graph = deepstruct.extract(sparse_net(), torch.randn(1, 8))

    def draws(samples: int, seed: int) -> list[torch.Tensor]:
        return [torch.cat([s.values for s in stored_weights(n).values()]) for n in null_models(graph, samples, seed)]

    few, many = draws(2, 5), draws(4, 5)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))
    assert not torch.equal(draws(1, 6)[0], few[0])


def test_the_scores_are_those_of_the_null_models() -> None:
    net, x = sparse_net(), torch.randn(1, 8)
    names = ["effective_nodes", "path_count", "in_degree_variance", "edges", "weights"]
    report = deepstruct.analyze(net, x, orders=("zeroth", "first"), metrics=names, null=6, null_seed=3)
    graph = deepstruct.extract(net, x)
    for order in ("zeroth", "first"):
        rows = {row.name: row for row in report.rows if row.order == order}
        assert rows["weights"].null_samples is None
        assert rows["weights"].z is None
        for name in names[:3]:
            values = [
                deepstruct.analyze(null, orders=order, metrics=[name])[order][name]
                for null in null_models(graph, 6, seed=3)
            ]
            row = rows[name]
            assert row.null_samples == 6
            assert row.null_mean == pytest.approx(statistics.mean(values))
            assert row.null_std == pytest.approx(statistics.stdev(values))
            if row.null_std > 0:
                assert row.z == pytest.approx((row.value - statistics.mean(values)) / statistics.stdev(values))
        assert rows["edges"].null_std == 0
        assert math.isnan(rows["edges"].z)
        assert "the same in every null model" in rows["edges"].note


def test_dense_layers_have_no_spread() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    report = deepstruct.analyze(net, torch.randn(1, 4), orders="zeroth", metrics=["path_count"], null=3)
    (row,) = report.rows
    assert (row.value, row.null_mean, row.null_std) == (40, 40, 0)
    assert math.isnan(row.z)


def test_a_metric_that_some_null_models_lack() -> None:
    """One weight in each of two layers: they meet, and lead somewhere, in a null model now and then."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.zero_()
            layer.weight[0, 0] = 1
    report = deepstruct.analyze(net, torch.randn(1, 3), orders="zeroth", metrics=["shortest_path"], null=12)
    (row,) = report.rows
    assert 0 < row.null_samples < 12
    assert f"defined in {row.null_samples} of 12 null models" in row.note


def test_whole_numbers_beyond_floats() -> None:
    big = 10**400
    mean, std, z, why = score(big + 4 * 10**399, [big, big + 10**399, big - 10**399])
    assert why == ""
    assert (mean, std) == (big, 10**399)
    assert z == pytest.approx(4)


def test_layer_and_node_scope_are_left_alone() -> None:
    report = deepstruct.analyze(
        sparse_net(), torch.randn(1, 8), orders="zeroth", metrics=["layer_edges", "in_degree"], null=2
    )
    assert [row.null_samples for row in report.rows] == [None, None]
    assert len(report.null_models()) == 0


def test_fixed_names_are_metrics() -> None:
    from deepstruct.plugin import get_host

    assert {metric.name for metric in get_host().registry().metrics} >= FIXED


@pytest.mark.parametrize("null", [1, -3, 2.5, True, "ten"])
def test_a_number_that_makes_no_sense(null) -> None:
    with pytest.raises(InputError, match="at least 2"):
        deepstruct.analyze(sparse_net(), torch.randn(1, 8), null=null)


def test_a_graph_without_stored_weights() -> None:
    import networkx as nx

    graph = deepstruct.extract(sparse_net(), torch.randn(1, 8)).from_networkx(nx.path_graph(4, create_using=nx.DiGraph))
    with pytest.raises(InputError, match="not read from one"):
        deepstruct.analyze(graph, null=3)


def test_progress_tells_of_them() -> None:
    seen: list[str] = []
    deepstruct.analyze(
        sparse_net(), torch.randn(1, 8), orders="zeroth", metrics=["edges"], null=3,
        progress=lambda what, done, total: seen.append(what),
    )  # fmt: skip
    assert [s for s in seen if "null" in s] == [f"null model {k} of 3" for k in (1, 2, 3)]


def test_on_the_command_line(tmp_path, monkeypatch) -> None:
    from deepstruct.cli.main import cli

    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef build():\n    return nn.Linear(4, 3)\n")
    run = CliRunner().invoke(
        cli, ["analyze", f"{tmp_path / 'net.py'}:build", "--input", "1,4", "--density", "0.5", "--orders", "zeroth",
              "--metrics", "in_degree_max,edges", "--null", "5", "--max-seconds", "60", "--setting", "max_floods=10"],
        catch_exceptions=False,
    )  # fmt: skip
    assert run.exit_code == 0
    assert "against null models" in run.output
    assert "null_mean" in run.output
