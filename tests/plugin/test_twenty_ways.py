"""Twenty-odd ways for a plugin to be broken: each is isolated, named and listed, all installed at once.

One analysis runs beside all of them and gives what it gives without them.
"""

from __future__ import annotations

import io
import json
import textwrap

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.metrics.base import Metric
from deepstruct.plugin import Host, PluginSettings, use_host

HEAD = """
    import sys
    from deepstruct import hookimpl
    from deepstruct.metrics.base import Metric
    from deepstruct.structure.rules import Rule

    def metric(name, compute):
        return Metric(name, "operator", compute, definition="A test.")
"""

METRICS_HOOK = f"{HEAD}\n    @hookimpl\n    def deepstruct_metrics(ctx):"

# name -> (source, state, what its record, or the line of its metric, says)
WAYS: dict[str, tuple[str, str, str]] = {
    "import-error": ("import a_module_that_is_missing", "failed", "ModuleNotFoundError"),
    "missing-dependency": ("from numpy import a_name_that_numpy_lacks", "failed", "ImportError"),
    "syntax-error": ("def (:", "failed", "SyntaxError"),
    "exit-at-import": ("import sys\nsys.exit(3)", "failed", "SystemExit: 3"),
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('odd')", "failed", "Odd: odd"),
    "recursion-at-import": ("def f(): return f()\nf()", "failed", "RecursionError"),
    "wrong-api": (f"{HEAD}\n    deepstruct_api = 99", "failed", "plugin API 99"),
    "no-hooks": ("x = 1", "failed", "implements no hook"),
    "unmarked": ("def deepstruct_metrics(ctx): return []", "failed", "not marked with @deepstruct.hookimpl"),
    "wrong-hook-name": (
        f"{HEAD}\n    @hookimpl\n    def deepstruct_metrix(ctx): return []",
        "failed", "did you mean deepstruct_metrics?",
    ),
    "wrong-signature": (
        f"{HEAD}\n    @hookimpl\n    def deepstruct_metrics(ctx, folder): return []", "failed", "folder"
    ),
    "raises": (f"{METRICS_HOOK} return 1 / 0", "failed", "ZeroDivisionError"),
    "exits-in-hook": (f"{METRICS_HOOK} sys.exit('bye')", "failed", "SystemExit: bye"),
    "recursion-in-hook": (
        f"{METRICS_HOOK} return deepstruct_metrics(ctx)", "failed", "RecursionError"
    ),
    "rubbish": (f"{METRICS_HOOK} return 'nodes'", "failed", "of type str"),
    "wrong-type": (f"{HEAD}\n    @hookimpl\n    def deepstruct_rules(ctx): return [object()]", "failed", "which is no"),
    "generator-that-raises": (
        f"{METRICS_HOOK}\n        yield metric('m', len)\n        raise KeyError('late')",
        "failed", "KeyError: 'late'",
    ),
    "without-end": (
        f"{METRICS_HOOK}\n        while True: yield metric('m', len)",
        "failed", "perhaps without end",
    ),
    "prints": (f"{METRICS_HOOK} return []\n    print('hello')", "ok", "prints to"),
    "slow": (
        f"{METRICS_HOOK} return []\n    import time\n    time.sleep(2.1)", "ok", "s to import",
    ),
    "vandal": (
        f"{HEAD}\n    @hookimpl\n    def deepstruct_rule_for(module):\n"
        "        for weight in module.parameters(): weight.data.zero_()", "failed", "writes into",
    ),
    "metric-that-raises": (
        f"{METRICS_HOOK} return [metric('raising', lambda view: 1 / 0)]",
        "ok", "ZeroDivisionError",
    ),
    "metric-not-serialisable": (
        f"{METRICS_HOOK} return [metric('opaque', lambda view: object())]",
        "ok", "a plain number was expected",
    ),
    "metric-nan": (
        f"{METRICS_HOOK} return [metric('nan', lambda view: float('nan'))]",
        "ok", "not finite",
    ),
    "metric-that-exits": (
        f"{METRICS_HOOK} return [metric('exiting', lambda view: sys.exit(3))]",
        "ok", "SystemExit",
    ),
    "conflicting-one": (
        f"{METRICS_HOOK} return [metric('contested', lambda view: 1)]",
        "ok", "by deepstruct-conflicting-one 1.2 and deepstruct-conflicting-two 1.2",
    ),
    "conflicting-two": (
        f"{METRICS_HOOK} return [metric('contested', lambda view: 2)]",
        "ok", "by deepstruct-conflicting-one 1.2 and deepstruct-conflicting-two 1.2",
    ),
}  # fmt: skip
MISSING_ATTRIBUTE, TWIN = "missing-attribute", "twin"
METRICS = ["nodes", "edges", "raising", "opaque", "nan", "exiting", "contested"]


class Good:
    @hookimpl
    def deepstruct_metrics(self):
        return [Metric("half", "operator", lambda view: view.graph.num_nodes / 2, definition="n / 2")]


@pytest.fixture
def everything(install):
    """All of them installed, and one that works."""
    for name, (source, _, _) in WAYS.items():
        install(name, textwrap.dedent(source))
    install(MISSING_ATTRIBUTE, "x = 1", entry="plugin_deepstruct_missing_attribute_missing_attribute:nothing")
    for letter in "ab":
        install(TWIN, f"{METRICS_HOOK} return []", distribution=f"twin-{letter}")
    stream = io.StringIO()
    return Host([("good", Good())], stream=stream, settings=PluginSettings()), stream


def test_all_at_once(everything, capsys) -> None:
    host, stream = everything
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(1, 4)
    weights = [parameter.clone() for parameter in model.parameters()]
    with use_host(host):
        report = deepstruct.analyze(model, x, orders=("zeroth",), metrics=[*METRICS, "half"])
        host.registry().collect_all()
    assert (report["zeroth"]["nodes"], report["zeroth"]["edges"], report["zeroth"]["half"]) == (9, 18, 4.5)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert capsys.readouterr().out == ""
    json.loads(report.to_json())

    records = {record.name: record for record in host.records() if not record.builtin and record.name != TWIN}
    reasons = {line.name: line.reason for line in report.skipped}
    for name, (_, state, words) in WAYS.items():
        record = records[name]
        assert record.state == state, (name, record)
        said = " ".join([record.error, *record.warnings, *record.failed_hooks.values()])
        if not said.strip():
            said = " ".join(reason for metric, reason in reasons.items() if metric in METRICS)
        assert words in said, (name, said)
        if state == "failed":  # one line on stderr, and one in the report
            who = f"plugin {name} (deepstruct-{name} 1.2)"
            lines = [line for line in stream.getvalue().splitlines() if who in line]
            assert len(lines) == 1, (name, lines)
            assert f"DEEPSTRUCT_PLUGINS=-{name}" in lines[0]
    assert records[MISSING_ATTRIBUTE].state == "failed"
    assert "AttributeError" in records[MISSING_ATTRIBUTE].error
    assert sorted(record.state for record in host.records() if record.name == TWIN) == ["conflict", "ok"]
    listed = {line.name for line in report.skipped if line.kind == "plugin"}
    assert {name for name, (_, state, _) in WAYS.items() if state == "failed"} <= listed


def test_there_are_more_than_twenty_ways() -> None:
    assert len(WAYS) + 2 > 20


@pytest.mark.parametrize("name", [name for name, (_, state, _) in WAYS.items() if state == "failed"])
def test_each_is_an_error_in_strict_mode(name, install) -> None:
    install(name, textwrap.dedent(WAYS[name][0]))
    host = Host(settings=PluginSettings(strict=True), stream=io.StringIO())
    with pytest.raises(deepstruct.DeepstructError, match=f"plugin {name} ") as error, use_host(host):
        host.registry().collect_all()
        deepstruct.extract(nn.Linear(2, 2), torch.ones(1, 2))
    assert "DEEPSTRUCT_STRICT_PLUGINS" in str(error.value)
