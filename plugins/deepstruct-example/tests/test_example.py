"""The example does what its README says, when it is installed beside deepstruct."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import deepstruct
from deepstruct.checkpoints import load_weights
from deepstruct.plugin import Host, use_host
from deepstruct.testing import check_rule

pytest.importorskip("deepstruct_example", reason="the example plugin is not installed")

from deepstruct_example import plugin
from deepstruct_example.commands import tensors
from deepstruct_example.exchange import Exchange


@pytest.fixture(autouse=True)
def host():
    with use_host(Host([("example", plugin)], entry_points=False)) as host:
        yield host


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_the_rule_equals_the_jacobian(stride) -> None:
    graph = check_rule(Exchange(stride), torch.randn(1, 8, dtype=torch.float64))
    assert (graph.num_nodes, graph.num_edges) == (16, 16)


def test_the_rule_inside_a_model() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Exchange(2), nn.Linear(8, 3))
    report = deepstruct.analyze(model, torch.randn(1, 6), orders=("zeroth",))
    assert report["zeroth"]["structural_edges"] == 16
    assert report["zeroth"]["weight_edges"] == 6 * 8 + 8 * 3


def test_without_the_plugin_the_error_names_the_hook() -> None:
    with use_host(Host(entry_points=False)), pytest.raises(deepstruct.UnknownOpError) as error:
        deepstruct.analyze(Exchange(1), torch.randn(1, 4))
    assert "deepstruct_example::exchange" in str(error.value)
    assert "deepstruct_rules" in str(error.value)


def test_the_metric() -> None:
    conv = nn.Conv2d(1, 2, 3, bias=False)
    report = deepstruct.analyze(conv, torch.randn(1, 1, 6, 6), orders=("zeroth",), metrics=("edges_per_weight",))
    assert report["zeroth"]["edges_per_weight"] == 16
    (row,) = [value for value in report.rows if value.name == "edges_per_weight"]
    assert row.provider.startswith("example")


def test_the_reader_and_the_command(tmp_path) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    source.weight.data[0] = 0
    np.savez(tmp_path / "weights.npz", **{k: v.numpy() for k, v in source.state_dict().items()})
    load_weights(target, tmp_path / "weights.npz")
    assert torch.equal(target.weight, source.weight)
    result = CliRunner().invoke(tensors, [str(tmp_path / "weights.npz")])
    assert result.exit_code == 0, result.output
    assert "2x3   50.0%  weight" in result.output
