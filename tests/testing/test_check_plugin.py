"""check_plugin passes plugins that keep the contract, and names the check that others fail."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import click
import pytest
import torch
from torch import nn

from deepstruct import hookimpl
from deepstruct.errors import PluginError
from deepstruct.metrics.base import Metric
from deepstruct.plugin import Host, inspection, use_host
from deepstruct.plugin.events import Done
from deepstruct.structure.rules import Rule
from deepstruct.testing import OracleError, check_plugin, parametrize_with_plugin_checks, plugin_checks
from deepstruct.testing.contract import CHECKS


def half(view):
    return view.graph.num_nodes / 2


def passes_through(builder, node):
    return builder.one_to_one(node.signals()[0])


class Good:
    """Keeps the contract, with every hook."""

    class Order:
        name = "twin"

        def build(self, trace, settings, registry, progress=None, **options):
            raise NotImplementedError

    class Looker:
        name, priority = "looker", 70

        def available(self):
            return None

        def estimate(self, graph):
            return 8 * graph.num_nodes

        def prepare(self, graph, context):
            return SimpleNamespace(graph=graph)

    class Reader:
        name, safe = "text", True

        def probe(self, path, head):
            return 95 if path.suffix == ".text" else 0

        def open(self, path):
            return {}

    class Inline:
        name = "inline"

        def available(self):
            return None

        def run(self, work, items, options):
            for index, item in enumerate(items):
                try:
                    yield Done(index, work(item))
                except Exception as error:
                    yield Done(index, error=error)

    class Sink:
        name = "null"

        def accepts(self, target):
            return 100 if target == "null:" else 0

        def open(self, target, batch):
            return SimpleNamespace(write=lambda rows: None, close=lambda: None)

    class Names:
        name, suffixes = "names", (".names",)

        def render(self, report):
            return " ".join(row.name for row in report.rows)

    @hookimpl
    def deepstruct_rules(self):
        return [Rule("torch.nn:Identity", passes_through, kind="module")]

    @hookimpl
    def deepstruct_rule_for(self, module, path):
        return None

    @hookimpl
    def deepstruct_orders(self):
        return [self.Order()]

    @hookimpl
    def deepstruct_analyzers(self):
        return [self.Looker()]

    @hookimpl
    def deepstruct_metrics(self):
        return [Metric("half", "looker", half, definition="n / 2", bounds=(0, 100))]

    @hookimpl
    def deepstruct_checkpoint_readers(self):
        return [self.Reader()]

    @hookimpl
    def deepstruct_checkpoint_model(self, tensors):
        return nn.Identity() if "identity" in tensors else None

    @hookimpl
    def deepstruct_executors(self):
        return [self.Inline()]

    @hookimpl
    def deepstruct_renderers(self):
        return [self.Names()]

    @hookimpl
    def deepstruct_sinks(self):
        return [self.Sink()]

    @hookimpl
    def deepstruct_batch_started(self, batch):
        assert batch.total

    @hookimpl
    def deepstruct_checkpoint_done(self, outcome):
        assert outcome.path

    @hookimpl
    def deepstruct_batch_finished(self, summary):
        assert summary.ok

    @hookimpl
    def deepstruct_commands(self, cli):
        @cli.command()
        def greet():
            """Greet."""
            click.echo("hello")


def test_a_plugin_with_every_hook_passes_every_check() -> None:
    hooks = {name for name in dir(Good) if name.startswith("deepstruct_")}
    assert hooks == set(inspection.hook_names())
    outcome = check_plugin(("good", Good()))
    assert list(outcome) == [*CHECKS, "metric half"]
    assert set(outcome.values()) == {"passed"}


def returns(value):
    return lambda: value


def variant(**changes) -> object:
    """A plugin whose hooks return what is given; functions are implementations."""
    hooks = {}
    for name, value in changes.items():
        hooks[f"deepstruct_{name}"] = staticmethod(hookimpl(value if callable(value) else returns(value)))
    return type("Variant", (), hooks)()


def changed(kind: type, **attributes) -> list:
    return [type(kind.__name__, (kind,), attributes)()]


def raises(error):
    def function(*args, **kwargs):
        raise error

    return function


def prints() -> list:
    print("hello")
    return []


def vandal(module):
    module.weight.data.zero_()


class Fickle:
    def __init__(self) -> None:
        self.count = 0

    @hookimpl
    def deepstruct_metrics(self):
        self.count += 1
        return [Metric(f"m{self.count}", "operator", half, definition="n / 2")]


def taken(cli) -> None:
    cli.add_command(click.Command("analyze", help="Taken."))


def silent(cli) -> None:
    cli.add_command(click.Command("silent"))


def once_a_list(work, items, options):
    return iter([Done(0, 1)])


WRONG = {
    "raises": (variant(metrics=raises(ValueError("no"))), "loads", "ValueError: no"),
    "unknown-hook": (variant(metric=[]), "loads", "did you mean deepstruct_metrics"),
    "no-hooks": (object(), "loads", "implements no hook"),
    "prints": (variant(orders=prints), "is quiet", "prints to standard output"),
    "fickle": (Fickle(), "is repeatable", "and then"),
    "twice": (
        variant(rules=[Rule("aten_x", passes_through)] * 2), "has no conflict with itself", "op aten_x more than once"
    ),
    "unknown-type": (
        variant(rules=[Rule("torch.nn:Nothing", passes_through, kind="module")]), "rules have targets", "no such type"
    ),
    "greedy": (
        variant(rule_for=lambda module: Rule(type(module), passes_through, kind="module")), "rule_for declines",
        "a rule .* for a plain Linear",
    ),
    "vandal": (variant(rule_for=vandal), "rule_for declines", "writes into"),
    "odd-analyzer": (variant(analyzers=changed(Good.Looker, available=lambda self: 7)), "analyzers work", "returned 7"),
    "odd-probe": (variant(checkpoint_readers=changed(Good.Reader, probe=lambda *a: 300)), "readers are careful", "300"),
    "exits": (
        variant(checkpoint_readers=changed(Good.Reader, probe=lambda *a: 50, open=raises(SystemExit(1)))),
        "readers are careful", "SystemExit",
    ),
    "claims-all": (variant(checkpoint_model=lambda tensors: nn.Identity()), "checkpoint_model declines", "Identity"),
    "loses": (variant(executors=changed(Good.Inline, run=staticmethod(once_a_list))), "executors lose nothing", "Done"),
    "odd-sink": (variant(sinks=changed(Good.Sink, accepts=lambda *a: "yes")), "sinks know their targets", "yes"),
    "odd-document": (
        variant(renderers=changed(Good.Names, render=lambda *a: 7)), "renderers write documents", "not text or bytes"
    ),
    "odd-suffix": (variant(renderers=changed(Good.Names, suffixes=("md",))), "renderers write documents", "suffixes"),
    "taken": (variant(commands=taken), "commands have help", "'analyze' is deepstruct's"),
    "no-help": (variant(commands=silent), "commands have help", "no help text"),
    "deaf": (variant(checkpoint_done=raises(KeyError("x"))), "notifications are taken", "KeyError"),
    "no-definition": (variant(metrics=[Metric("m", "operator", half)]), "metric m", "no definition"),
    "no-analyzer": (variant(metrics=[Metric("m", "mars", half, definition="x")]), "metric m", "nobody offers"),
    "not-json": (
        variant(metrics=[Metric("m", "operator", lambda view: object(), definition="x")]), "metric m", "TypeError"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_plugin_that_breaks_the_contract_is_told_by_the_check(case) -> None:
    plugin, check, words = WRONG[case]
    with pytest.raises(OracleError, match=rf"(?s)plugin wrong: .*\n  {check}: .*{words}"):
        check_plugin(("wrong", plugin))


def test_every_check_has_a_plugin_that_fails_it() -> None:
    assert {check for _, check, _ in WRONG.values()} >= set(CHECKS) - {"leaves models alone"}


def test_a_plugin_that_changes_what_a_plain_model_has() -> None:
    def dense(builder, node):
        return builder.dense(node.signals(), node.out[0].shape)

    plugin = variant(rule_for=lambda module: Rule(type(module), dense, kind="module") if len(list(module.children()))
                     else None)  # fmt: skip
    with pytest.raises(OracleError, match=r"leaves models alone: .*a plain model has"):
        check_plugin(("wrong", plugin))


def test_expected_failures() -> None:
    plugin = ("wrong", variant(metrics=[Metric("m", "operator", half)]))
    outcome = check_plugin(plugin, expected_failures={"metric m": "not written yet"})
    assert outcome["metric m"] == "expected: not written yet"
    with pytest.raises(OracleError, match="loads: passes, though a failure is expected"):
        check_plugin(plugin, expected_failures={"metric m": "x", "loads": "y"})
    with pytest.raises(OracleError, match=r"names \['metric x'\]; the checks are loads"):
        check_plugin(plugin, expected_failures={"metric x": "y"})


def test_options_of_metrics() -> None:
    plugin = ("good", variant(metrics=[Metric("half", "operator", half, definition="n / 2")]))
    assert check_plugin(plugin, metrics={"half": {"reference": lambda graph: len(graph) / 2}})
    with pytest.raises(OracleError, match=r"metric half: .*reference"):
        check_plugin(plugin, metrics={"half": {"reference": lambda graph: len(graph)}})


def test_plugins_are_named_in_many_ways() -> None:
    module = SimpleNamespace(__name__="package.mine", deepstruct_metrics=hookimpl(returns([])))
    assert repr(plugin_checks(module)[0]) == "mine: loads"
    assert repr(plugin_checks(Good)[0]) == "Good: loads"
    with pytest.raises(PluginError, match="no installed plugin is called 'nothing'"):
        check_plugin("nothing")


@parametrize_with_plugin_checks(
    [("good", Good()), ("other", variant(metrics=[Metric("m", "operator", half)]))],
    expected_failures={"metric m": "it has no definition"},
)
def test_with_pytest(check) -> None:
    check()


def test_a_check_is_told_by_its_name_in_pytest() -> None:
    mark = parametrize_with_plugin_checks([("good", Good())]).mark
    ids = [parameter.id for parameter in mark.args[1]]
    assert ids[:2] == ["good-loads", "good-is-quiet"]
    assert ids[-1] == "good-metric-half"


def test_checks_leave_the_process_as_it_was() -> None:
    output, random = sys.stdout, torch.get_rng_state()
    with use_host(Host(entry_points=False)) as host:
        check_plugin(("good", Good()))
        from deepstruct.plugin import get_host

        assert get_host() is host
    assert sys.stdout is output
    assert torch.equal(random, torch.get_rng_state())
