"""Budgets of time, settings and preferences: what is over, unknown or wrong is told."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import nn
from zoo_compat import declare_torchvision_ops

import deepstruct
from deepstruct.analyzers.select import analyze_graph
from deepstruct.engine import budget
from deepstruct.errors import BudgetError, InputError, MetricError
from deepstruct.metrics.base import AnalysisContext, Measured, Metric, Setting
from deepstruct.metrics.settings import check_settings
from deepstruct.plugin import get_host


class Registry:
    """The built-in analyzers and metrics, and what a test adds in front."""

    def __init__(self, *metrics: Metric) -> None:
        real = get_host().registry()
        self.analyzers, self.metrics = real.analyzers, [*metrics, *real.metrics]

    def provider_of(self, obj: Any) -> str:
        return ""


def graph() -> Any:
    net = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)]).eval()
    return deepstruct.extract(net, torch.randn(1, 8))


def run(metric: Metric, **limits: Any) -> tuple[list[Any], list[Any]]:
    return analyze_graph(
        graph(), [metric.name, "edges"], context=AnalysisContext(**limits), registry=Registry(metric)
    )


def endless_sweeps(view: Any) -> int:
    from deepstruct.engine import passes

    while True:
        passes.reached(view.graph)


def best_so_far(view: Any) -> Measured:
    rounds = 0
    while not budget.expired():
        rounds += 1
        time.sleep(0.001)
    return Measured(rounds, exact=False, converged=False, residual=0.5, note="stopped by max_seconds")


def test_a_metric_that_sweeps_for_ever_is_stopped() -> None:
    began = time.monotonic()
    values, skipped = run(Metric("endless", "operator", endless_sweeps), max_seconds=0.2)
    assert time.monotonic() - began < 30
    assert [v.name for v in values] == ["edges"]
    (line,) = skipped
    assert line.name == "endless"
    assert "stopped after 0." in line.reason
    assert "the budget of 0.2 s (max_seconds)" in line.reason


def test_a_flood_is_stopped() -> None:
    from deepstruct.engine import fixpoint

    with budget.limited(1e-9), pytest.raises(BudgetError, match="max_seconds"):
        fixpoint(graph(), graph().is_source)


def test_a_view_that_takes_too_long_is_stopped_for_one_metric_alone() -> None:
    class Slow:
        name, priority = "slow", 1
        prepared = 0

        def available(self) -> None:
            return None

        def estimate(self, graph: Any) -> int:
            return 0

        def prepare(self, graph: Any, context: Any) -> str:
            Slow.prepared += 1
            while Slow.prepared == 1:
                budget.check()
                time.sleep(0.005)
            return "view"

    registry = Registry(Metric("a", "slow", lambda view: 1), Metric("b", "slow", lambda view: 2))
    registry.analyzers = [Slow()]
    values, skipped = analyze_graph(graph(), ["a", "b"], context=AnalysisContext(max_seconds=0.1), registry=registry)
    assert [(s.name, s.kind) for s in skipped] == [("a", "metric")]
    assert [(v.name, v.value) for v in values] == [("b", 2)]


def test_an_iteration_may_hand_back_what_it_has() -> None:
    (value, _), skipped = run(Metric("iterated", "operator", best_so_far), max_seconds=0.1)
    assert skipped == []
    assert value.value > 1
    assert (value.exact, value.converged, value.residual) == (False, False, 0.5)
    assert value.note == "stopped by max_seconds"


def test_without_a_budget_nothing_is_asked() -> None:
    budget.check()
    assert not budget.expired()
    with budget.limited(None) as none:
        assert none is None
        budget.check()


def test_an_inner_budget_ends_with_the_outer_one() -> None:
    with budget.limited(0.01):
        time.sleep(0.02)
        with budget.limited(100):
            assert budget.expired()
            with pytest.raises(BudgetError, match=r"0\.01 s"):
                budget.check()
    assert not budget.expired()


def test_a_budget_error_is_a_metric_error() -> None:
    assert issubclass(BudgetError, MetricError)
    assert deepstruct.BudgetError is BudgetError


def test_the_report_tells_of_the_budget() -> None:
    net = nn.Linear(4, 3).eval()
    names = ["path_count", "edges"]
    report = deepstruct.analyze(net, torch.randn(1, 4), orders="zeroth", max_seconds=1e-9, metrics=names)
    (line,) = report.skipped
    assert line.name == "path_count"
    assert "max_seconds" in line.reason
    assert report.settings["max_seconds"] == 1e-9


@pytest.mark.parametrize("value", [0, -1, "long", True, float("nan")])
def test_seconds_that_make_no_sense(value: Any) -> None:
    with pytest.raises(InputError, match="max_seconds must be a positive number"):
        deepstruct.analyze(nn.Linear(2, 2), torch.randn(1, 2), max_seconds=value)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown setting 'max_operation': did you mean max_operations"):
        deepstruct.analyze(nn.Linear(2, 2), torch.randn(1, 2), settings={"max_operation": 1e9})
    with pytest.raises(InputError, match=r"unknown setting 'xyzzy': known: .*max_floods, .*max_operations"):
        check_settings({"xyzzy": 1})


def test_plugins_declare_settings() -> None:
    metric = Metric("m", "operator", lambda view: 1, settings=(Setting("acme_depth", 3, "how deep it looks"),))
    check_settings({"acme_depth": 4, "max_operations": 1}, [metric])
    with pytest.raises(InputError, match="did you mean acme_depth"):
        check_settings({"acme_deph": 4}, [metric])


@pytest.mark.parametrize("prefer", ["deepstrukt", ["deepstruct", "nobody"], {"op mm": "nobody"}])
def test_unknown_preferences_are_named(prefer: Any) -> None:
    with pytest.raises(InputError, match=r"prefer names '(deepstrukt|nobody)', and no plugin comes from there"):
        deepstruct.analyze(nn.Linear(2, 2), torch.randn(1, 2), prefer=prefer)
    with pytest.raises(InputError, match="no plugin comes from there"):
        deepstruct.extract(nn.Linear(2, 2), torch.randn(1, 2), prefer=prefer)


def test_unknown_keys_of_preferences_are_named() -> None:
    with pytest.raises(InputError, match=r"prefer has the key 'op convolutoin', .* did you mean op convolution"):
        deepstruct.extract(nn.Linear(2, 2), torch.randn(1, 2), prefer={"op convolutoin": "deepstruct"})
    for key in ("op mm", "order zeroth", "module torch.nn:Linear"):
        assert deepstruct.extract(nn.Linear(2, 2), torch.randn(1, 2), prefer={key: "deepstruct"}).num_edges == 4


def test_preferences_of_another_kind() -> None:
    with pytest.raises(InputError, match="prefer is of type int"):
        deepstruct.extract(nn.Linear(2, 2), torch.randn(1, 2), prefer=3)
    assert deepstruct.extract(nn.Linear(2, 2), torch.randn(1, 2), prefer="deepstruct").num_edges == 4


@pytest.mark.parametrize("analyzer", ["igraph", "networkx"])
@pytest.mark.parametrize("name", ["butterflies", "longest_path", "effective_nodes", "average_path_length"])
def test_loops_over_the_explicit_graph_ask(analyzer: str, name: str) -> None:
    values, skipped = analyze_graph(
        graph(), [name], analyzer, AnalysisContext(max_seconds=1e-9), registry=Registry()
    )
    through = {("igraph", "average_path_length"), ("networkx", "longest_path"), ("networkx", "effective_nodes")}
    if (analyzer, name) in through:
        assert [v.name for v in values] == [name]  # one call of a library, or a short loop: it runs to its end
    else:
        assert values == []
        assert "max_seconds" in skipped[0].reason


def test_sizes_and_structure_of_a_language_model_without_weights_in_memory() -> None:
    """A Llama on the meta device: what needs no values of weights is there, within a budget of its slots' size."""
    declare_torchvision_ops()
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8}
    config = transformers.LlamaConfig(vocab_size=1000, use_cache=False, num_key_value_heads=4, **sizes)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
    graph = deepstruct.extract(model, torch.randint(0, 1000, (1, 32)))
    budget = 16 * graph.num_slots
    report = deepstruct.analyze(graph, analyzer="operator", max_memory=budget)
    zeroth = report["zeroth"]
    assert zeroth["weights"] == 3 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512) + 256 * 1000
    weight_edges = 32 * zeroth["weights"]
    assert (zeroth["weight_edges"], zeroth["parallel_edges"]) == (weight_edges, 0)
    assert zeroth["effective_nodes"] == zeroth["largest_component"] == zeroth["nodes"]
    assert zeroth["effective_edges"] == zeroth["edges"]
    assert zeroth["dead_in"] == zeroth["dead_out"] == 0
    assert zeroth["in_degree_mean"] == pytest.approx(zeroth["edges"] / zeroth["nodes"])
    units = deepstruct.extract(model, torch.randint(0, 1000, (1, 32)), attention="units")
    told = deepstruct.analyze(units, analyzer="operator", metrics=["path_count", "longest_path", "path_length_mean"])
    for name in ("path_count", "longest_path"):
        assert zeroth[name] == told["zeroth"][name]
    assert zeroth["path_length_mean"] == pytest.approx(told["zeroth"]["path_length_mean"])
    for skipped in report.skipped:  # nothing but what reads weights, or vectors of float64
        assert skipped.name.startswith("strength") or "assortativity" in skipped.name, skipped
    for order in ("first", "second", "third"):
        assert deepstruct.analyze(graph.quotient(order), metrics=["nodes"])[order]["nodes"] > 0
