"""Each hook, used by a plugin, in a real analysis."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.errors import MetricError, PluginError
from deepstruct.metrics.base import Metric
from deepstruct.plugin import Host, use_host
from deepstruct.structure.orders.zeroth import ZerothOrder
from deepstruct.structure.rules import Rule


class Plugin:
    """A plugin with the hooks that it is given: Plugin(rules=[...]) has `deepstruct_rules`."""

    def __init__(self, **values) -> None:
        for hook, value in values.items():
            setattr(self, f"deepstruct_{hook}", self._implementation(value))

    @staticmethod
    def _implementation(value):
        @hookimpl
        def implementation(ctx):
            return value

        return implementation


def host(**plugins) -> Host:
    return Host(list(plugins.items()), entry_points=False)


def fully_wired(builder, node):
    return builder.dense(node.signals(), node.out[0].shape)


class Layer(nn.Module):
    def __init__(self, tag: str = "") -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)
        self.tag = tag

    def forward(self, x):
        return self.inner(x)


class Special(Layer):
    """Without a rule of its own."""


X = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))


def counts(model) -> tuple[int, int]:
    graph = deepstruct.extract(model, X)
    return graph.num_weight_edges, graph.num_structural_edges


@pytest.mark.parametrize("target", [Layer, f"{Layer.__module__}:{Layer.__qualname__}"])
@pytest.mark.parametrize("model", [Layer, Special])
def test_hook_rules(target, model) -> None:
    assert counts(model()) == (12, 0)
    with use_host(host(acme=Plugin(rules=[Rule(target, fully_wired, kind="module")]))):
        assert counts(model()) == (0, 12)


def test_the_nearest_base_class_wins() -> None:
    def single(builder, node):
        return builder.source(node.out[0].shape, "cut")

    rules = [Rule(Layer, fully_wired, kind="module"), Rule(Special, single, kind="module")]
    with use_host(host(acme=Plugin(rules=rules))):
        assert counts(Special()) == (0, 0)
        assert counts(Layer()) == (0, 12)


def test_a_plugin_replaces_a_built_in_rule_and_says_so_once(capsys) -> None:
    with use_host(host(acme=Plugin(rules=[Rule("_softmax", fully_wired)]))):
        for _ in range(2):
            assert counts(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))) == (12, 9)
    lines = [line for line in capsys.readouterr().err.splitlines() if "_softmax" in line]
    assert len(lines) == 1
    assert "acme" in lines[0]


def test_two_plugins_for_one_target_are_a_conflict() -> None:
    rule, other = Rule(Layer, fully_wired, kind="module"), Rule(Layer, fully_wired, kind="module")
    with use_host(host(acme=Plugin(rules=[rule]), other=Plugin(rules=[other]))):
        with pytest.raises(PluginError, match="acme and other") as error:
            deepstruct.extract(Layer(), X)
        key = str(error.value).split(" is offered")[0]
        assert "prefer=" in str(error.value)
        for prefer in ({key: "other"}, "other", ["other"]):
            assert deepstruct.extract(Layer(), X, prefer=prefer).num_structural_edges == 12


def test_hook_rule_for() -> None:
    class ByInstance:
        @hookimpl
        def deepstruct_rule_for(self, module, path, ctx):
            assert ctx.api == 1
            if getattr(module, "tag", "") == "dense":
                return Rule(type(module), fully_wired, kind="module")

    model = nn.Sequential(Layer("dense"), nn.ReLU(), nn.Linear(3, 4), Layer("plain"))
    with use_host(host(acme=ByInstance())):
        assert counts(model) == (12 + 12, 12)


class Copy:
    """An order of a plugin's own: the zeroth one under another name."""

    name = "copy"

    def build(self, trace, settings, registry, progress=None, **options):
        graph = ZerothOrder().build(trace, settings, registry, progress)
        graph.order = self.name
        return graph


def test_hook_orders() -> None:
    metric = Metric("links", "operator", lambda view: view.graph.num_edges, orders=("copy",), definition="Edges.")
    with use_host(host(acme=Plugin(orders=[Copy()], metrics=[metric]))):
        graph = deepstruct.extract(Layer(), X, order="copy")
        report = deepstruct.analyze(Layer(), X, orders=("zeroth", "copy"))
    assert (graph.order, graph.num_weight_edges) == ("copy", 12)
    assert report["copy"]["links"] == report["zeroth"]["edges"] == 12


class Counter:
    """An analyzer that looks at spaces."""

    name = "spaces"
    priority = 5

    def __init__(self, reason: str | None = None, need: int = 0) -> None:
        self.reason, self.need = reason, need

    def available(self):
        return self.reason

    def estimate(self, graph):
        return self.need

    def prepare(self, graph, context):
        return [space.numel for space in graph.spaces]


SPACES = Metric("number_of_spaces", "spaces", len, definition="Spaces of units.")


def test_hook_analyzers() -> None:
    with use_host(host(acme=Plugin(analyzers=[Counter()], metrics=[SPACES]))):
        report = deepstruct.analyze(Layer(), X, orders=("zeroth",), metrics=["number_of_spaces"])
    assert report["zeroth"]["number_of_spaces"] == 2
    (row,) = report.rows
    assert (row.analyzer, row.provider) == ("spaces", "acme")


@pytest.mark.parametrize(
    ("analyzer", "expected"), [(Counter("not today"), "not today"), (Counter(need=1 << 60), "max_memory")]
)
def test_an_analyzer_that_cannot_run_is_a_reason(analyzer, expected) -> None:
    with use_host(host(acme=Plugin(analyzers=[analyzer], metrics=[SPACES]))):
        report = deepstruct.analyze(Layer(), X, orders=("zeroth",), metrics=["number_of_spaces", "nodes"])
    assert report["zeroth"]["nodes"] == 7
    (skipped,) = report.skipped
    assert skipped.name == "number_of_spaces"
    assert expected in skipped.reason


def test_hook_metrics() -> None:
    def half(view):
        return view.graph.num_nodes / 2

    def undefined(view):
        raise MetricError("not on Sundays")

    def broken(view):
        raise ZeroDivisionError("a mistake")

    metrics = [
        Metric("half_the_nodes", "operator", half, definition="n / 2"),
        Metric("undefined_here", "operator", undefined, definition="none"),
        Metric("mistaken", "operator", broken, definition="none"),
    ]
    with use_host(host(acme=Plugin(metrics=metrics))):
        report = deepstruct.analyze(Layer(), X, orders=("zeroth",))
    assert report["zeroth"]["half_the_nodes"] == 3.5
    assert report["zeroth"]["nodes"] == 7
    reasons = {line.name: line.reason for line in report.skipped}
    assert "not on Sundays" in reasons["undefined_here"]
    assert "ZeroDivisionError" in reasons["mistaken"]


def number(value: float, name: str = "answer") -> Metric:
    return Metric(name, "operator", lambda view: value, definition="A number.")


def measured(*names: str, **options):
    return deepstruct.analyze(Layer(), X, orders=("zeroth",), metrics=list(names), **options)


def test_two_plugins_for_one_metric_are_a_conflict_that_prefer_settles() -> None:
    with use_host(host(acme=Plugin(metrics=[number(1.0)]), other=Plugin(metrics=[number(2.0)]))):
        report = measured("answer", "nodes")
        (line,) = report.skipped
        assert "metric answer is offered at the same priority (0) by acme and other" in line.reason
        assert report["zeroth"]["nodes"] == 7
        for prefer in ("other", ["other"], {"metric answer": "other"}):
            report = measured("answer", prefer=prefer)
            assert report["zeroth"]["answer"] == 2.0
            assert report.rows[0].provider == "other"


def test_a_metric_of_a_plugin_replaces_a_built_in_one_and_says_so_once(capsys) -> None:
    with use_host(host(acme=Plugin(metrics=[number(42.0, "nodes")]))):
        for _ in range(2):
            assert measured("nodes")["zeroth"]["nodes"] == 42.0
        assert measured("nodes", prefer="deepstruct")["zeroth"]["nodes"] == 7
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["deepstruct: metric nodes comes from plugin acme (acme), not from deepstruct"]


def test_two_plugins_for_one_analyzer_are_a_conflict_that_prefer_settles() -> None:
    plugins = {name: Plugin(analyzers=[Counter(need=n)]) for n, name in enumerate(("acme", "other"))}
    with use_host(host(**plugins, third=Plugin(metrics=[SPACES]))):
        with pytest.raises(PluginError, match=r"analyzer spaces is offered.*acme and other"):
            measured("number_of_spaces")
        assert measured("number_of_spaces", prefer={"analyzer spaces": "other"})["zeroth"]["number_of_spaces"] == 2
