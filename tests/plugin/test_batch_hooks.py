"""The hooks of batches and of documents: what plugins offer for them, and what they are told."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.errors import InputError, PluginError
from deepstruct.plugin import Host, PluginSettings, use_host
from deepstruct.plugin.events import BatchInfo, BatchSummary, CheckpointOutcome, Done, WorkOptions
from deepstruct.plugin.protocols import Executor, Renderer, Sink, SinkWriter
from deepstruct.report import Report

INFO = BatchInfo("run-1", "runs/", total=2, executor="inline")


def of(hook: str, function) -> SimpleNamespace:
    """A plugin with one hook."""
    return SimpleNamespace(**{f"deepstruct_{hook}": hookimpl(function)})


def host(**plugins) -> Host:
    return Host(list(plugins.items()), entry_points=False, builtins=False)


class Backwards:
    """Runs the last item first."""

    name = "backwards"

    def available(self):
        return None

    def run(self, work, items, options):
        for index in reversed(range(len(items))):
            try:
                yield Done(index, work(items[index]))
            except Exception as error:
                yield Done(index, error=error)


def test_hook_executors() -> None:
    registry = host(acme=of("executors", lambda ctx: [Backwards()])).registry()
    executor = registry.named("executors", "backwards")
    assert isinstance(executor, Executor)
    assert registry.provider_of(executor) == "acme"
    done = list(executor.run(lambda x: 1 // x, [1, 0], WorkOptions()))
    assert [(d.index, d.value) for d in done] == [(1, None), (0, 1)]
    assert isinstance(done[0].error, ZeroDivisionError)
    with pytest.raises(PluginError, match=r"no executor called 'dask'; known: backwards"):
        registry.named("executors", "dask")


class Memory:
    """A sink and its writer in one."""

    name = "memory"

    def __init__(self) -> None:
        self.rows: list = []
        self.closed = False

    def accepts(self, target):
        return 100 if target.startswith("memory:") else 0

    def open(self, target, batch):
        assert batch.run == "run-1"
        return self

    def write(self, rows):
        self.rows += rows

    def close(self):
        self.closed = True


def test_hook_sinks() -> None:
    sink = Memory()
    registry = host(acme=of("sinks", lambda: [sink])).registry()
    (found,) = registry.sinks
    assert isinstance(found, Sink)
    assert (found.accepts("memory:x"), found.accepts("x.db")) == (100, 0)
    writer = found.open("memory:x", INFO)
    assert isinstance(writer, SinkWriter)
    writer.write([{"name": "nodes", "value": 7}])
    writer.close()
    assert (sink.rows, sink.closed) == ([{"name": "nodes", "value": 7}], True)


class Names:
    """Lists the metrics of a report."""

    name = "names"
    suffixes = (".names",)

    def render(self, report):
        return ",".join(row.name for row in report.rows)


def analysed() -> Report:
    return deepstruct.analyze(nn.Linear(4, 3), torch.ones(1, 4), orders=("zeroth",), metrics=["nodes", "edges"])


def test_hook_renderers(tmp_path) -> None:
    plugin = of("renderers", lambda: [Names()])
    with use_host(Host([("acme", plugin)], entry_points=False)) as used:
        assert all(isinstance(r, Renderer) for r in used.registry().renderers)
        report = analysed()
        assert report.render("names") == "nodes,edges"
        report.save(tmp_path / "x.names")
        assert (tmp_path / "x.names").read_text() == "nodes,edges"


def test_built_in_renderers(tmp_path) -> None:
    with use_host(Host(entry_points=False)):
        report = analysed()
        for suffix, start in ((".json", "{"), (".html", "<!doctype html>"), (".txt", report.model_name)):
            report.save(tmp_path / f"report{suffix}")
            assert (tmp_path / f"report{suffix}").read_text().startswith(start)
        assert Report.from_json(tmp_path / "report.json")["zeroth"]["nodes"] == 7
        report.save(tmp_path / "report.odd", "json")
        with pytest.raises(InputError, match=r"no renderer claims the suffix '.pdf'"):
            report.save(tmp_path / "report.pdf")
        with pytest.raises(InputError, match=r"no renderer called 'pdf'; known: html, json, text"):
            report.render("pdf")


@pytest.mark.parametrize(("body", "expected"), [("raise SystemExit(3)", "SystemExit: 3"), ("return 7", "type int")])
def test_a_renderer_that_does_not_work_is_named(body, expected) -> None:
    namespace: dict = {}
    exec(f"def render(self, report):\n    {body}", namespace)
    broken = type("Broken", (), {"name": "broken", "suffixes": (), "render": namespace["render"]})()
    with use_host(Host([("acme", of("renderers", lambda: [broken]))], entry_points=False)):
        with pytest.raises(PluginError, match=f"renderer 'broken' of acme.*{expected}"):
            analysed().render("broken")


def test_two_renderers_of_one_name_are_a_conflict() -> None:
    plugins = {name: of("renderers", lambda: [Names()]) for name in ("acme", "other")}
    registry = host(**plugins).registry()
    with pytest.raises(PluginError, match=r"renderer names is offered at the same priority \(0\) by acme and other"):
        registry.named("renderers", "names")
    assert registry.provider_of(registry.named("renderers", "names", "other")) == "other"


def test_hook_checkpoint_model(capsys) -> None:
    def raises(tensors, path):
        raise RuntimeError("no idea")

    def rubbish(tensors):
        return "a model"

    def model(tensors, path, ctx):
        assert (ctx.api, path) == (1, "x.pt")
        return nn.Linear(*reversed(tensors["weight"].shape)) if "weight" in tensors else None

    plugins = host(
        a=of("checkpoint_model", raises), b=of("checkpoint_model", rubbish), c=of("checkpoint_model", model)
    )
    registry = plugins.registry()
    found = registry.checkpoint_model({"weight": torch.zeros(3, 4)}, "x.pt")
    assert (found.in_features, found.out_features) == (4, 3)
    assert registry.provider_of(found) == "c"
    assert registry.checkpoint_model({"other": torch.zeros(3)}, "x.pt") is None
    assert [plugins.record(name).state for name in "abc"] == ["failed", "failed", "ok"]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_hook_batch_started() -> None:
    seen: list = []
    plugins = host(acme=of("batch_started", lambda batch, ctx: seen.append((batch, ctx.api))))
    plugins.notify("deepstruct_batch_started", batch=INFO)
    assert seen == [(INFO, 1)]


def test_hook_checkpoint_done() -> None:
    seen: list = []
    plugins = host(acme=of("checkpoint_done", lambda batch, outcome: seen.append((batch.run, outcome.path))))
    for path in ("a.pt", "b.pt"):
        plugins.notify("deepstruct_checkpoint_done", batch=INFO, outcome=CheckpointOutcome(path))
    assert seen == [("run-1", "a.pt"), ("run-1", "b.pt")]


def test_hook_batch_finished() -> None:
    seen: list = []
    plugins = host(acme=of("batch_finished", lambda summary: seen.append(summary.ok)))
    plugins.notify("deepstruct_batch_finished", batch=INFO, summary=BatchSummary(ok=2))
    assert seen == [2]


@pytest.mark.parametrize("strict", [False, True])
def test_a_notification_that_fails_is_recorded_said_once_and_tried_again(strict, capsys) -> None:
    seen: list = []

    def unsteady(outcome):
        seen.append(outcome.path)
        if len(seen) < 3:
            raise SystemExit("no network")

    plugins = Host(
        [("acme", of("checkpoint_done", unsteady))], entry_points=False, builtins=False,
        settings=PluginSettings(strict=strict),
    )  # fmt: skip
    for number in range(4):
        plugins.notify("deepstruct_checkpoint_done", batch=INFO, outcome=CheckpointOutcome(str(number)))
    assert seen == ["0", "1", "2", "3"]
    assert "no network" in plugins.record("acme").failed_hooks["deepstruct_checkpoint_done"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_plugins_are_told_travels_between_processes() -> None:
    for value in (INFO, CheckpointOutcome("a"), BatchSummary(), WorkOptions(), Done(1, error=ValueError("x"))):
        assert repr(pickle.loads(pickle.dumps(value))) == repr(value)
