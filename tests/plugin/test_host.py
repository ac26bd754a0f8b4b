"""Loading, selection, order and provenance."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from torch import nn

from deepstruct import hookimpl
from deepstruct.errors import PluginError
from deepstruct.plugin import Host, PluginSettings, get_host, use_host
from deepstruct.plugin.settings import normalise
from deepstruct.structure.rules.base import Rule

SOURCE = """
    from deepstruct import hookimpl

    from deepstruct.structure.rules.base import Rule

    @hookimpl
    def deepstruct_rules(ctx):
        return [Rule("custom", print)]
"""


def named(name: str) -> Rule:
    return Rule(name, lambda builder, node: None)


class RuleFor:
    """A plugin with a rule for every module whose path ends in `suffix`."""

    def __init__(self, name: str, suffix: str) -> None:
        self.name, self.suffix = name, suffix

    @hookimpl
    def deepstruct_rule_for(self, module, path):
        return named(f"{self.name}:{path}") if path.endswith(self.suffix) else None


def providers(host: Host) -> list[str]:
    registry = host.registry()
    return [registry.provider_of(rule) for rule in registry.rules]


def make(**settings) -> Host:
    return Host(builtins=False, settings=PluginSettings(**settings))


def test_plugins_are_sorted_by_distribution_then_name(install) -> None:
    install("z", SOURCE, distribution="alpha")
    install("b", SOURCE, distribution="beta")
    install("a", SOURCE, distribution="beta")
    host = make()
    assert [(r.distribution, r.name) for r in host.records()] == [
        ("alpha", "z"),
        ("beta", "a"),
        ("beta", "b"),
    ]
    assert providers(host) == ["alpha 1.2", "beta 1.2", "beta 1.2"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ["one", "two"]),
        ("all", ["one", "two"]),
        ("none", []),
        ("one", ["one"]),
        ("deepstruct_ONE", ["one"]),
        ("one,two", ["one", "two"]),
        (" one , ", ["one"]),
        ("-one", ["two"]),
        ("one,two,-two", ["one"]),
    ],
)
def test_the_environment_selects(install, capsys, monkeypatch, value, expected) -> None:
    install("one", SOURCE)
    install("two", SOURCE)
    monkeypatch.setenv("DEEPSTRUCT_PLUGINS", value)
    host = Host(builtins=False)
    assert [r.name for r in host.records() if r.state == "ok"] == expected
    assert {r.state for r in host.records() if r.name not in expected} <= {"disabled"}
    assert len(host.registry().rules) == len(expected)
    assert capsys.readouterr().err == ""


def test_what_is_switched_off_is_not_imported(install) -> None:
    module = install("one", "raise RuntimeError('imported')")
    make(without=frozenset({"one"})).load()
    assert module not in sys.modules


def test_a_name_that_is_not_installed_is_said(capsys, install) -> None:
    install("one", SOURCE)
    make(only=frozenset({"one", "tow"})).load()
    assert "'tow'" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "strict"), [("", False), ("0", False), ("no", False), ("1", True), ("yes", True)])
def test_strict_setting(value, strict) -> None:
    assert PluginSettings.from_environment({"DEEPSTRUCT_STRICT_PLUGINS": value}).strict is strict


def test_names_are_normalised() -> None:
    assert normalise("Deepstruct_My.Plugin") == "deepstruct-my-plugin"


def test_given_plugins_need_no_installation() -> None:
    rule = named("mine")
    plugin = SimpleNamespace(deepstruct_rules=hookimpl(lambda ctx: [rule]), __name__="mine", __version__="3")
    host = Host([plugin, ("other", RuleFor("other", "x"))], entry_points=False, builtins=False)
    registry = host.registry()
    assert registry.rules == [rule]
    assert registry.provider_of(rule) == "mine 3"
    assert registry.provider_of(named("unknown")) == ""
    assert [r.name for r in host.records()] == ["mine", "other"]


def test_a_hook_is_asked_once() -> None:
    calls = []

    class Plugin:
        @hookimpl
        def deepstruct_rules(self, ctx):
            calls.append(ctx)
            return (named(str(i)) for i in range(2))

    host = Host([Plugin()], entry_points=False, builtins=False)
    assert len(host.registry().rules) == len(host.registry().rules) == 2
    assert len(calls) == 1
    assert calls[0].api == 1
    assert calls[0].version == host.context.version


def test_rule_for_takes_the_first_answer() -> None:
    plugins = [("a", RuleFor("a", "conv")), ("b", RuleFor("b", "")), ("c", RuleFor("c", ""))]
    registry = Host(plugins, entry_points=False, builtins=False).registry()
    rule = registry.rule_for(nn.Identity(), "block.conv")
    assert rule.target == "a:block.conv"
    assert registry.provider_of(rule) == "a"
    assert registry.rule_for(nn.Identity(), "block.norm").target == "b:block.norm"
    assert (
        Host([("a", RuleFor("a", "conv"))], entry_points=False, builtins=False).registry().rule_for(nn.Identity(), "x")
        is None
    )


def test_tryfirst_goes_before_the_order_of_loading() -> None:
    class First(RuleFor):
        @hookimpl(tryfirst=True)
        def deepstruct_rule_for(self, module, path):
            return named("first")

    registry = Host([("a", RuleFor("a", "")), ("z", First("z", ""))], entry_points=False, builtins=False).registry()
    assert registry.rule_for(nn.Identity(), "x").target == "first"


def test_rules_for_instances_are_not_kept_alive() -> None:
    registry = Host([("a", RuleFor("a", ""))], entry_points=False, builtins=False).registry()
    for index in range(50):
        registry.rule_for(nn.Identity(), str(index))
    gc.collect()
    assert len(registry._watched) == 0


def test_a_raising_rule_for_is_asked_no_more(capsys) -> None:
    class Bad:
        @hookimpl
        def deepstruct_rule_for(self, module, path):
            raise RuntimeError("no")

    registry = Host([("bad", Bad()), ("b", RuleFor("b", ""))], entry_points=False, builtins=False).registry()
    assert registry.rule_for(nn.Identity(), "x").target == "b:x"
    assert registry.rule_for(nn.Identity(), "y").target == "b:y"
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rule_for_that_returns_rubbish(capsys) -> None:
    class Bad:
        @hookimpl
        def deepstruct_rule_for(self, module, path):
            return 7

    host = Host([("bad", Bad()), ("b", RuleFor("b", ""))], entry_points=False, builtins=False)
    assert host.registry().rule_for(nn.Identity(), "x").target == "b:x"
    assert host.record("bad").state == "failed"
    assert "plain value" in capsys.readouterr().err


def test_everything_built_in_comes_through_the_hooks() -> None:
    host = Host(entry_points=False)
    registry = host.registry()
    registry.collect_all()
    assert [(r.name, r.error) for r in host.records() if r.state != "ok"] == []
    for kind in ("rules", "orders", "analyzers", "metrics", "readers"):
        offers = registry.offers(kind)
        assert offers, kind
        assert all(offer.builtin and offer.provider.startswith("deepstruct ") for offer in offers)


def test_other_plugins_come_before_ours() -> None:
    class Plugin:
        @hookimpl
        def deepstruct_rules(self, ctx):
            return [named("theirs")]

    rules = Host([("p", Plugin())], entry_points=False).registry().rules
    assert rules[0].target == "theirs"
    assert len(rules) > 1


def test_an_unknown_record_lists_what_there_is() -> None:
    with pytest.raises(PluginError, match="installed plugins: p"):
        Host([("p", RuleFor("p", ""))], entry_points=False, builtins=False).record("q")


def test_use_host_is_for_the_block() -> None:
    outer = get_host()
    mine = Host(entry_points=False, builtins=False)
    with use_host(mine):
        assert get_host() is mine
    assert get_host() is outer


def test_one_host_for_all_threads() -> None:
    import_count = []

    class Plugin:
        @hookimpl
        def deepstruct_rules(self, ctx):
            import_count.append(1)
            return [named("x")]

    host = Host([Plugin()], entry_points=False, builtins=False)
    barrier = threading.Barrier(8)
    seen = []

    def work() -> None:
        barrier.wait()
        seen.append(len(host.registry().rules))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 8
    assert len(import_count) == 1


def test_importing_deepstruct_loads_no_plugin(install, site) -> None:
    module = install("one", "raise RuntimeError('imported')")
    code = f"import sys, deepstruct\ndeepstruct.hookimpl, deepstruct.errors\nassert {module!r} not in sys.modules\n"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
