"""Plugins may look at a model, and may not change it; what they print goes to stderr."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.errors import PluginError, StructureError
from deepstruct.metrics.base import Metric
from deepstruct.plugin import Host, use_host
from deepstruct.plugin.guard import untouched
from deepstruct.plugin.output import printing_to
from deepstruct.structure.rules import Rule

WRITES = {
    "in-place": lambda m: m.weight.data.zero_(),
    "view": lambda m: m.weight.detach()[0].view(-1).fill_(1.0),
    "copy": lambda m: m.weight.data.copy_(torch.zeros_like(m.weight)),
    "out": lambda m: torch.neg(m.weight.data, out=m.bias.data.new_empty(0).set_(m.weight.data)),
    "initializer": lambda m: nn.init.normal_(m.weight),
    "load": lambda m: m.load_state_dict({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}),
    "item": lambda m: m.weight.data.__setitem__((0, 0), 5.0),
}
EXCHANGES = {
    "training": lambda m: m.train(not m.training),
    "parameter": lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(3, 4))),
    "deleted": lambda m: delattr(m, "bias"),
    "buffer": lambda m: m.register_buffer("extra", torch.zeros(1)),
    "submodule": lambda m: m.add_module("extra", nn.Linear(1, 1)),
    "random state": lambda m: torch.manual_seed(99),
}


def state(module: nn.Module) -> list:
    return [module.training, [(k, v.clone()) for k, v in module.state_dict().items()], list(module._modules)]


def same(before: list, after: list) -> bool:
    tensors = all(k == j and torch.equal(v, w) for (k, v), (j, w) in zip(before[1], after[1], strict=True))
    return before[0] == after[0] and tensors and before[2] == after[2]


@pytest.mark.parametrize("name", [*WRITES, *EXCHANGES])
def test_a_model_cannot_be_changed(name) -> None:
    module = nn.Linear(4, 3)
    before, random = state(module), torch.get_rng_state()
    with pytest.raises((PluginError, RuntimeError), match="hooks may only look at a model"):
        with untouched(module):
            {**WRITES, **EXCHANGES}[name](module)
    assert same(before, state(module))
    assert torch.equal(random, torch.get_rng_state())


def test_reading_and_writing_elsewhere_is_free() -> None:
    module = nn.Linear(4, 3)
    with untouched(module):
        copied = module.weight.detach().clone()
        copied.zero_()
        copied[0] += module.weight[0].detach()
        module(torch.ones(1, 4)).sum()


def test_a_rule_for_an_instance_that_changes_the_model_is_recorded(capsys) -> None:
    class Vandal:
        @hookimpl
        def deepstruct_rule_for(self, module):
            for weight in module.parameters():
                weight.data.zero_()

    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    before = state(model)
    with use_host(Host([("vandal", Vandal())], entry_points=False)) as used:
        assert deepstruct.extract(model, torch.ones(1, 4)).num_weight_edges == 18
        assert "writes into '0.weight'" in used.record("vandal").failed_hooks["deepstruct_rule_for"]
    assert same(before, state(model))
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("end", ["writes", "exits"])
def test_a_rule_that_misbehaves_is_an_error_that_names_its_plugin(end) -> None:
    def wire(builder, node):
        if end == "exits":
            sys.exit(3)
        node.module.weight.data.zero_()
        return builder.one_to_one(node.signals()[0])

    class Vandal:
        @hookimpl
        def deepstruct_rules(self):
            return [Rule(nn.Linear, wire, kind="module")]

    model = nn.Sequential(nn.Linear(4, 4))
    before = state(model)
    with use_host(Host([("vandal", Vandal())], entry_points=False)):
        with pytest.raises((StructureError, PluginError), match="from plugin vandal") as error:
            deepstruct.extract(model, torch.ones(1, 4))
    assert "torch.nn.modules.linear:Linear" in str(error.value)
    assert same(before, state(model))


def test_a_metric_that_changes_weights_is_skipped_with_its_reason() -> None:
    def vandal(view):
        for op in view.graph.operators:
            op.weight.tensor.mul_(2)
        return 1.0

    class Plugin:
        @hookimpl
        def deepstruct_metrics(self):
            return [Metric("vandal", "operator", vandal, definition="none")]

    model = nn.Linear(4, 3)
    before = state(model)
    with use_host(Host([("acme", Plugin())], entry_points=False)):
        report = deepstruct.analyze(model, torch.ones(1, 4), orders=("zeroth",), metrics=["vandal", "nodes"])
    (line,) = report.skipped
    assert line.name == "vandal"
    assert "writes into" in line.reason
    assert "from acme" in line.reason
    assert report["zeroth"]["nodes"] == 7
    assert same(before, state(model))


def test_what_a_plugin_prints_goes_to_stderr(install, recorder, capsys) -> None:
    install("loud", "print('loading')\nfrom deepstruct import hookimpl\n@hookimpl\n"
                    "def deepstruct_orders(ctx):\n    print('asked')\n    return []\n")  # fmt: skip
    host = Host(builtins=False, stream=recorder)
    host.registry().collect_all()
    assert capsys.readouterr().out == ""
    assert recorder.lines == ["loading", "asked"]
    record = host.record("loud")
    assert (record.state, record.warnings) == ("ok", ["it prints to standard output (sent to stderr)"])


def test_other_threads_print_as_before(recorder, capsys) -> None:
    with printing_to(recorder) as printed:
        thread = threading.Thread(target=lambda: print("from another thread"))
        thread.start()
        thread.join()
        print("from here")
    assert capsys.readouterr().out == "from another thread\n"
    assert (recorder.lines, printed()) == (["from here"], 10)
    print("after")
    assert capsys.readouterr().out == "after\n"


def test_rules_of_plugins_are_named_in_the_report() -> None:
    def dense(builder, node):
        return builder.dense(node.signals(), node.out[0].shape)

    class Plugin:
        __version__ = "1.2"

        @hookimpl
        def deepstruct_rule_for(self, module, path):
            return Rule(type(module), dense, kind="module") if path == "1" else None

    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    with use_host(Host([("acme", Plugin())], entry_points=False)):
        report = deepstruct.analyze(model, torch.ones(1, 4), orders=("zeroth",), metrics=["nodes"])
    assert report.notes == ["structure rules of acme 1.2: module torch.nn.modules.activation:ReLU"]
