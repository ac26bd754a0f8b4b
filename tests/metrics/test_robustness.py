"""Attack curves: every analyzer agrees, and small cases are what one counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_nets import random_net
from torch import nn

import deepstruct
from deepstruct.engine import passes
from deepstruct.errors import MetricError
from deepstruct.metrics.robustness import Plan, plan

SETTINGS = {"removal_fractions": (0.2, 0.5, 0.8), "removal_repeats": 3, "removal_seed": 4}


def measure(net: nn.Module, x: torch.Tensor, names: list[str], analyzer: str, **settings) -> dict:
    report = deepstruct.analyze(net, x, orders="zeroth", metrics=names, analyzer=analyzer, settings=SETTINGS | settings)
    return {row.name: row for row in report.rows}


@pytest.mark.parametrize("seed", range(12))
def test_all_analyzers_agree(seed: int) -> None:
    net, x = random_net(seed)
    names = [f"robustness_{what}{order}" for what in ("", "edges_") for order in ("random", "degree")]
    found = [measure(net, x, names, analyzer) for analyzer in ("operator", "igraph", "networkx")]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, row in found[0].items():
        for other in found[1:]:
            assert row.value == pytest.approx(other[name].value, rel=1e-12), name
            assert row.residual == pytest.approx(other[name].residual, rel=1e-9), name
            assert row.note.split(";")[0] == other[name].note.split(";")[0]
        assert not row.exact
        assert 0 <= row.value <= 1


@pytest.mark.parametrize("seed", range(6))
def test_components_agree(seed: int) -> None:
    net, x = random_net(seed)
    names = ["robustness_component_random", "robustness_component_degree"]
    one, two = (measure(net, x, names, analyzer) for analyzer in ("igraph", "networkx"))
    assert {k: v.value for k, v in one.items()} == pytest.approx({k: v.value for k, v in two.items()})
    assert len(one) == 2


def test_one_hidden_layer_by_hand() -> None:
    """3-10-2, dense: k hidden nodes gone leave 15 - k nodes; none are left without the whole layer."""
    net = nn.Sequential(nn.Linear(3, 10, bias=False), nn.Linear(10, 2, bias=False)).eval()
    names = ["robustness_random", "robustness_degree", "robustness_paths", "robustness_edges_random"]
    rows = measure(net, torch.randn(1, 3), names, "operator", removal_fractions=[0.3, 0.6, 1.0])
    for name in names[:3]:
        assert rows[name].value == pytest.approx((12 + 9 + 0) / 15 / 3)
        assert rows[name].residual == 0
        assert "0.3: 0.8, 0.6: 0.6, 1: 0" in rows[name].note
    assert rows["robustness_edges_random"].value == pytest.approx((0.7 + 0.4 + 0) / 3)


def test_attacks_take_the_important_ones_first() -> None:
    """Hidden node 0 has all paths: it goes first by degree and by paths, and nothing is left."""
    net = nn.Sequential(nn.Linear(4, 10, bias=False), nn.Linear(10, 2, bias=False)).eval()
    with torch.no_grad():
        net[0].weight[1:] = 0
        net[0].weight[1:, 0] = 1
        net[1].weight[:, 1:] = 0
    names = ["robustness_random", "robustness_degree", "robustness_paths"]
    rows = measure(net, torch.randn(1, 4), names, "operator", removal_fractions=[0.1], removal_repeats=40)
    assert rows["robustness_degree"].value == rows["robustness_paths"].value == 0
    assert rows["robustness_random"].value == pytest.approx(0.9, abs=0.15)


@pytest.mark.parametrize("seed", range(10))
def test_path_centrality_ranks_the_removals(seed: int) -> None:
    from deepstruct.analyzers.operator.robustness import _paths
    from deepstruct.analyzers.operator.view import OperatorView
    from deepstruct.metrics.base import AnalysisContext

    graph = deepstruct.extract(*random_net(seed))
    through = graph.slots_to_nodes(passes.paths_from_sources(graph) * passes.paths_to_outputs(graph))
    np.testing.assert_allclose(2.0 ** (_paths(OperatorView(graph, AnalysisContext())) + 1800), through, rtol=1e-9)


def test_removals_are_nested_and_seeded() -> None:
    hidden = np.array([False, *[True] * 20, False])
    first = Plan((0.1, 0.5, 1.0), 4, 7).removals(hidden, None)
    assert [len(r) for r in first] == [2, 10, 20] * 4
    for repeat in range(4):
        a, b, c = (set(r.tolist()) for r in first[3 * repeat : 3 * repeat + 3])
        assert a < b < c == set(range(1, 21))
    again = Plan((0.1, 0.5, 1.0), 4, 7).removals(hidden, None)
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not all(
        np.array_equal(x, y) for x, y in zip(first, Plan((0.1, 0.5, 1.0), 4, 8).removals(hidden, None), strict=True)
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"removal_fractions": [0.5, 0.2]}, {"removal_fractions": [0.0]}, {"removal_fractions": 3},
        {"removal_fractions": []}, {"removal_repeats": 0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense(bad: dict) -> None:
    with pytest.raises(MetricError, match="the setting 'removal_"):
        plan(bad)


def test_where_it_is_not_defined() -> None:
    single, names = nn.Linear(3, 2).eval(), ["robustness_random"]
    report = deepstruct.analyze(single, torch.randn(1, 3), orders="zeroth", metrics=names)
    assert "no hidden nodes" in report.skipped[0].reason
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        net[1].weight.zero_()
    report = deepstruct.analyze(net, torch.randn(1, 3), orders="zeroth", metrics=names)
    assert "no path leads from an input to an output" in report.skipped[0].reason
