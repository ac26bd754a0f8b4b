"""The checks of `check_plugin`, one function each: what the plugin contract asks for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from deepstruct.errors import DeepstructError
from deepstruct.plugin import Host, PluginSettings, use_host
from deepstruct.plugin.events import BatchInfo, BatchSummary, CheckpointOutcome, Done, WorkOptions
from deepstruct.plugin.host import COMMANDS_HOOK
from deepstruct.plugin.registry import COLLECTED
from deepstruct.testing.metrics import check_metric, sample_graphs
from deepstruct.testing.support import OracleError

METRIC_PREFIX = "metric "


class PluginUnderTest:
    """A plugin in a strict host of its own, which every analysis in the context uses."""

    def __init__(self, name: str, plugin: Any) -> None:
        self.name, self.stream = name, io.StringIO()
        self.host = Host(
            [(name, plugin)], entry_points=False, settings=PluginSettings(strict=True), stream=self.stream
        )
        self._stack = ExitStack()

    def __enter__(self) -> PluginUnderTest:
        self._stack.enter_context(use_host(self.host))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def own(self, kind: str) -> list[Any]:
        """What the plugin contributes of one kind."""
        return [offer.value for offer in self.host.registry().offers(kind) if not offer.builtin]

    @property
    def kinds(self) -> list[str]:
        """The kinds of contributions that it has hooks for."""
        hooks = self.host.record(self.name).hooks
        return [kind for kind, (hook, _) in COLLECTED.items() if hook in hooks]

    def names(self) -> list[str]:
        """Every contribution by kind and name, in order."""
        return [f"{kind} {_name(value)}" for kind in self.kinds for value in self.own(kind)]


def _name(value: Any) -> str:
    return f"{value.name} of {value.analyzer}" if hasattr(value, "analyzer") else str(value.name)


def loads(subject: PluginUnderTest) -> None:
    """It loads, its hooks exist and take what they may, and return what they should."""
    subject.host.registry().collect_all()
    record = subject.host.record(subject.name)
    if record.state != "ok":
        raise OracleError(f"the plugin is {record.state}: {record.error}")


def is_quiet(subject: PluginUnderTest) -> None:
    """It prints nothing while it is loaded and collected."""
    subject.host.registry().collect_all()
    record = subject.host.record(subject.name)
    if record.warnings or subject.stream.getvalue():
        raise OracleError(f"{'; '.join(record.warnings)} {subject.stream.getvalue()!r}")


def is_repeatable(subject: PluginUnderTest) -> None:
    """Asked twice, it contributes the same."""
    first = subject.names()
    twin = PluginUnderTest(subject.name, subject.host.plugins()[0].plugin)
    if twin.names() != first:
        raise OracleError(f"it contributed {first}, and then {twin.names()}")


def has_no_conflict_with_itself(subject: PluginUnderTest) -> None:
    """No two of its contributions are for the same thing at the same priority."""
    for kind in subject.kinds:
        counts = Counter((_name(value), getattr(value, "priority", 0)) for value in subject.own(kind))
        twice = [name for (name, _), count in counts.items() if count > 1]
        if twice:
            raise OracleError(f"{kind}: {', '.join(twice)} more than once")


def leaves_models_alone(subject: PluginUnderTest) -> None:
    """A model that it has nothing to do with is read as it is without the plugin, and stays as it was."""
    import deepstruct

    model, x = _model(), torch.linspace(-1, 1, 8).reshape(1, 8)
    with use_host(Host(entry_points=False)):
        expected = _counts(deepstruct.extract(model, x))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    replaced = {rule.name for rule in subject.own("rules")} | {f"order {o.name}" for o in subject.own("orders")}
    found = _counts(deepstruct.extract(model, x))
    if found != expected and not any("Linear" in r or "ReLU" in r or r.startswith(("op", "order")) for r in replaced):
        raise OracleError(f"a plain model has (nodes, edges, weights) = {found}, without the plugin {expected}")
    if not torch.equal(random, torch.get_rng_state()):
        raise OracleError("an analysis with the plugin changed the random state")
    if any(not torch.equal(value, before[key]) for key, value in model.state_dict().items()) or model.training:
        raise OracleError("an analysis with the plugin changed the model")


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def _counts(graph: Any) -> tuple[int, int, int]:
    return int(graph.num_nodes), int(graph.num_edges), int(graph.num_weights)


def rules_have_targets(subject: PluginUnderTest) -> None:
    """Rules for module types name types that exist where their package is installed."""
    from importlib import import_module
    from importlib.util import find_spec

    for rule in subject.own("rules"):
        if rule.kind != "module" or isinstance(rule.target, type):
            continue
        module, colon, name = str(rule.target).partition(":")
        if not colon or not name:
            raise OracleError(f"{rule.name}: write the type as 'package.module:Class'")
        if find_spec(module.partition(".")[0]) is None:
            continue
        here: Any = import_module(module)
        for part in name.split("."):
            here = getattr(here, part, None)
        if not isinstance(here, type):
            raise OracleError(f"{rule.name}: there is no such type")


def rule_for_declines(subject: PluginUnderTest) -> None:
    """It has no rule for layers that torch's own rules read, and changes none of them."""
    registry = subject.host.registry()
    with torch.random.fork_rng(devices=[]):
        plain = [nn.Linear(4, 3), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Sequential(nn.Linear(2, 2))]
    for module in plain:
        rule = registry.rule_for(module, "a.b")
        if rule is not None:
            raise OracleError(f"it has a rule ({rule.name}) for a plain {type(module).__name__}")


def analyzers_work(subject: PluginUnderTest) -> None:
    """Each tells whether it can run, what it needs, and makes a view of small graphs."""
    from deepstruct.metrics.base import AnalysisContext

    for analyzer in subject.own("analyzers"):
        reason = analyzer.available()
        if reason is not None and not isinstance(reason, str):
            raise OracleError(f"{analyzer.name}: available() returned {reason!r}, neither None nor a reason")
        if not isinstance(analyzer.priority, int):
            raise OracleError(f"{analyzer.name}: priority is {analyzer.priority!r}, where a whole number is expected")
        for name, graph in sample_graphs():
            if not analyzer.estimate(graph) >= 0:
                raise OracleError(f"{analyzer.name}: estimate() of graph {name!r} is {analyzer.estimate(graph)!r}")
            if reason is None:
                try:
                    analyzer.prepare(graph, AnalysisContext())
                except DeepstructError:  # it may refuse a graph, with its reason
                    continue


def readers_are_careful(subject: PluginUnderTest) -> None:
    """probe() gives 0 to 100 for whatever it sees; open() of a damaged file raises an Exception."""
    heads = [b"", b"\x00", b"PK\x03\x04rest", b"{}", b"\x80\x02}", b"\xff" * 512]
    suffixes = ["", ".pt", ".bin", ".npz", ".json", ".safetensors"]
    with TemporaryDirectory() as folder:
        for reader in subject.own("readers"):
            for number, head in enumerate(heads):
                for suffix in suffixes:
                    path = Path(folder) / f"file{number}{suffix}"
                    path.write_bytes(head)
                    sure = reader.probe(path, head)
                    if not isinstance(sure, int) or not 0 <= sure <= 100:
                        raise OracleError(f"reader {reader.name}: probe() returned {sure!r}, not 0 to 100")
                    if sure:
                        _opens(reader, path)
            if not isinstance(getattr(reader, "safe", None), bool):
                raise OracleError(f"reader {reader.name}: say whether it is safe (True or False)")


def _opens(reader: Any, path: Path) -> None:
    try:
        reader.open(path)
    except Exception:  # a damaged file may be refused in any words
        return
    except BaseException as error:
        raise OracleError(f"reader {reader.name}: open() of a damaged file raised {type(error).__name__}") from error


def checkpoint_model_declines(subject: PluginUnderTest) -> None:
    """It has no module for a state that it cannot know."""
    registry = subject.host.registry()
    for state in ({}, {"unheard.of": torch.zeros(2, 2)}):
        found = registry.checkpoint_model(state, "nowhere/else.pt")
        if found is not None:
            raise OracleError(f"it has a {type(found).__name__} for a state with the keys {list(state)}")


def double(item: int) -> int:
    """Work for executors: raises ValueError for a negative number."""
    if item < 0:
        raise ValueError(f"negative: {item}")
    return 2 * item


def executors_lose_nothing(subject: PluginUnderTest) -> None:
    """Each item is done once, and one that raises costs no other."""
    for executor in subject.own("executors"):
        if executor.available() is not None:
            continue
        items = [3, -1, 0, 5]
        done = list(executor.run(double, items, WorkOptions(workers=1)))
        if not all(isinstance(one, Done) for one in done) or sorted(d.index for d in done) != [0, 1, 2, 3]:
            raise OracleError(f"executor {executor.name}: {len(items)} items gave {done}")
        values = {d.index: d.value for d in done if d.error is None}
        if values != {0: 6, 2: 0, 3: 10}:
            raise OracleError(f"executor {executor.name}: the results are {values}")
        if list(executor.run(double, [], WorkOptions(workers=1))):
            raise OracleError(f"executor {executor.name}: nothing to do gave results")


def sinks_know_their_targets(subject: PluginUnderTest) -> None:
    """accepts() gives 0 to 100 for any target."""
    for sink in subject.own("sinks"):
        for target in ("", "out.db", "out.csv", "folder/", "s3://bucket/key", "out"):
            sure = sink.accepts(target)
            if not isinstance(sure, int) or not 0 <= sure <= 100:
                raise OracleError(f"sink {sink.name}: accepts({target!r}) returned {sure!r}, not 0 to 100")


def renderers_write_documents(subject: PluginUnderTest) -> None:
    """Each makes text or bytes of a report, the same ones twice."""
    import deepstruct

    report = deepstruct.analyze(
        _model(), torch.zeros(1, 8), orders=("zeroth",), metrics=["nodes", "edges"]
    )
    for renderer in subject.own("renderers"):
        first, second = report.render(renderer.name), report.render(renderer.name)
        if first != second:
            raise OracleError(f"renderer {renderer.name}: rendered twice, the documents differ")
        if not all(isinstance(s, str) and s.startswith(".") for s in renderer.suffixes):
            raise OracleError(f"renderer {renderer.name}: suffixes are {renderer.suffixes!r}, not like ('.md',)")


def commands_have_help(subject: PluginUnderTest) -> None:
    """Each command has a help text, and a name that none of deepstruct's has."""
    import click
    from click.testing import CliRunner

    from deepstruct.cli.main import cli

    group = click.Group("plugin")
    for loaded in subject.host.implementers(COMMANDS_HOOK):
        subject.host.call(COMMANDS_HOOK, loaded, cli=group)
    if not group.commands:
        raise OracleError("it adds no command")
    for name, command in group.commands.items():
        if name in cli.commands:
            raise OracleError(f"the command {name!r} is deepstruct's")
        result = CliRunner().invoke(command, ["--help"])
        if result.exit_code != 0:
            raise OracleError(f"{name} --help ends with {result.exit_code}: {result.output}")
        if not (command.help or command.short_help):
            raise OracleError(f"the command {name!r} has no help text")


def notifications_are_taken(subject: PluginUnderTest) -> None:
    """The hooks of batches take what they are told."""
    info = BatchInfo("run", "folder", total=2)
    host = subject.host
    host.notify("deepstruct_batch_started", batch=info)
    for outcome in (CheckpointOutcome("a"), CheckpointOutcome("b", state="failed", error="cut short")):
        host.notify("deepstruct_checkpoint_done", batch=info, outcome=outcome)
    host.notify("deepstruct_batch_finished", batch=info, summary=BatchSummary(ok=1, failed=1))
    failed = host.record(subject.name).failed_hooks
    if failed:
        raise OracleError("; ".join(failed.values()))


def check_one_metric(subject: PluginUnderTest, name: str, options: Mapping[str, Any]) -> None:
    """`check_metric` for every analyzer that the plugin offers the metric for and that can run here."""
    registry = subject.host.registry()
    analyzers = {analyzer.name: analyzer for analyzer in registry.analyzers}
    for metric in subject.own("metrics"):
        if metric.name != name:
            continue
        analyzer = analyzers.get(metric.analyzer)
        if analyzer is None:
            raise OracleError(f"{name} is for analyzer {metric.analyzer!r}, which nobody offers")
        if not metric.definition:
            raise OracleError(f"{name} has no definition")
        if analyzer.available() is None:
            check_metric(metric, analyzer, **options)


CHECKS: dict[str, Callable[[PluginUnderTest], None]] = {
    "loads": loads,
    "is quiet": is_quiet,
    "is repeatable": is_repeatable,
    "has no conflict with itself": has_no_conflict_with_itself,
    "leaves models alone": leaves_models_alone,
    "rules have targets": rules_have_targets,
    "rule_for declines": rule_for_declines,
    "analyzers work": analyzers_work,
    "readers are careful": readers_are_careful,
    "checkpoint_model declines": checkpoint_model_declines,
    "executors lose nothing": executors_lose_nothing,
    "sinks know their targets": sinks_know_their_targets,
    "renderers write documents": renderers_write_documents,
    "commands have help": commands_have_help,
    "notifications are taken": notifications_are_taken,
}
"""The checks by name; one for each metric, named "metric NAME", comes on top."""

_NEEDS = {
    "rules have targets": {"deepstruct_rules"},
    "rule_for declines": {"deepstruct_rule_for"},
    "analyzers work": {"deepstruct_analyzers"},
    "readers are careful": {"deepstruct_checkpoint_readers"},
    "checkpoint_model declines": {"deepstruct_checkpoint_model"},
    "executors lose nothing": {"deepstruct_executors"},
    "sinks know their targets": {"deepstruct_sinks"},
    "renderers write documents": {"deepstruct_renderers"},
    "commands have help": {COMMANDS_HOOK},
    "notifications are taken": {
        "deepstruct_batch_started", "deepstruct_checkpoint_done", "deepstruct_batch_finished",
    },
}  # fmt: skip


def applies(check: str, hooks: set[str]) -> bool:
    """Whether a check is for a plugin with these hooks."""
    return check not in _NEEDS or bool(_NEEDS[check] & hooks)
