"""`deepstruct plugin new NAME`: a plugin package that works, to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from deepstruct.errors import InputError

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "deepstruct-{name}"
version = "0.1.0"
description = "A plugin for deepstruct"
readme = "README.md"
requires-python = ">=3.10"
dependencies = ["deepstruct"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."deepstruct.plugins"]
{name} = "{package}.plugin"

[tool.setuptools.packages.find]
include = ["{package}"]
"""

INIT = '''\
"""A plugin for deepstruct; `{package}.plugin` has its hooks."""

from __future__ import annotations
'''

PLUGIN = '''\
"""The hooks. What is heavy is imported in them: deepstruct imports this module at the first analysis."""

from __future__ import annotations

from typing import Any

from deepstruct import hookimpl

deepstruct_api = {api}


@hookimpl
def deepstruct_rules() -> list[Any]:
    """How `Blend` wires units."""
    from deepstruct.structure.rules import Rule
    from {package}.layers import wire_blend

    return [Rule("{package}.layers:Blend", wire_blend, kind="module")]


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """One metric, for the analyzer `operator`."""
    from {package}.metrics import METRICS

    return METRICS
'''

LAYERS = '''\
"""A layer type and the rule that says how it wires units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepstruct.structure.builder import Builder
    from deepstruct.structure.node import Node


class Blend(nn.Module):
    """Each feature times a function of its right neighbor; the last one's neighbor is the first."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input, whose last axis holds the features."""
        return x * torch.tanh(x.roll(-1, dims=-1))


def wire_blend(builder: Builder, node: Node) -> Any:
    """Each unit reads two elements: its own and its neighbor's."""
    (signal,) = node.signals()
    here = torch.arange(signal.index.numel()).reshape(signal.shape)
    there = here.roll(-1, dims=-1)
    read = torch.cat([here.reshape(-1), there.reshape(-1)])
    by = torch.cat([here.reshape(-1), here.reshape(-1)])
    return builder.sparse(signal, signal.shape, read, by, kind="blend")
'''

METRICS = '''\
"""A metric for the analyzer `operator`, whose view of a graph has the graph itself as `view.graph`."""

from __future__ import annotations

from typing import Any

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric


def mean_degree(view: Any) -> float:
    """Edges for each node."""
    if view.graph.num_nodes == 0:
        raise MetricError("the graph has no nodes")
    return float(view.graph.num_edges / view.graph.num_nodes)


METRICS = [
    Metric(
        "{underscored}_mean_degree",
        "operator",
        mean_degree,
        definition="Edges for each node, parallel ones counted.",
        bounds=(0, float("inf")),
        default=False,
    )
]
'''

TESTS = '''\
"""The plugin keeps the contract, its rule agrees with the Jacobian, and its metric with networkx."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.testing import check_rule, parametrize_with_plugin_checks
from {package} import plugin
from {package}.layers import Blend


def edges_for_each_node(graph):
    return graph.number_of_edges() / graph.number_of_nodes()


@parametrize_with_plugin_checks(
    [("{name}", plugin)], metrics={{"{underscored}_mean_degree": {{"reference": edges_for_each_node}}}}
)
def test_contract(check):
    check()


@pytest.mark.parametrize("features", [2, 5])
def test_the_rule_equals_the_jacobian(plugin_manager, features):
    plugin_manager.register(plugin, "{name}")
    graph = check_rule(Blend(), torch.randn(1, features, dtype=torch.float64))
    assert (graph.num_nodes, graph.num_edges) == (2 * features, 2 * features)


def test_in_a_model(plugin_manager):
    record = plugin_manager.register(plugin, "{name}")
    assert record.state == "ok"
    model = nn.Sequential(nn.Linear(4, 6), Blend(), nn.Linear(6, 2))
    report = deepstruct.analyze(
        model, torch.randn(1, 4), orders=("zeroth",), metrics=["edges", "{underscored}_mean_degree"]
    )
    assert report["zeroth"]["edges"] == 4 * 6 + 2 * 6 + 6 * 2
    assert report["zeroth"]["{underscored}_mean_degree"] == 48 / 18
    assert report.rows[-1].provider.startswith("{name}")
'''

README = """\
# deepstruct-{name}

A plugin for deepstruct: a rule for the layer type `Blend`, and the metric `{underscored}_mean_degree`.

```
pip install -e .[test]
pytest
deepstruct plugins --check {name}
```
"""


@click.group(short_help="Start a plugin of your own.")
def plugin() -> None:
    """Start a plugin of your own. `deepstruct plugins` lists those that are installed."""


@plugin.command(short_help="Write a plugin package that works.")
@click.argument("name")
@click.option(
    "--into", type=click.Path(path_type=Path, file_okay=False), default=".", help="Folder for the new package's folder."
)
def new(name: str, into: Path) -> None:
    """Write the package deepstruct-NAME with a rule, a metric and tests that pass.

    NAME is in small letters, digits and hyphens. Nothing that exists is overwritten.
    """
    for path in write_plugin(name, into):
        click.echo(f"wrote {path}")
    click.echo(f"next: pip install -e {into / f'deepstruct-{name}'}, then pytest there")


def write_plugin(name: str, into: Path) -> list[Path]:
    """The files of a new plugin package, written. Raises InputError for a name that will not do."""
    from deepstruct.plugin.markers import API_VERSION

    name = name.removeprefix("deepstruct-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise InputError(f"{name!r} cannot be the name of a plugin: small letters and digits, with hyphens between")
    folder, package = into / f"deepstruct-{name}", f"deepstruct_{name}".replace("-", "_")
    if folder.exists():
        raise InputError(f"{folder} exists: nothing was written")
    words = {"name": name, "package": package, "underscored": name.replace("-", "_"), "api": API_VERSION}
    files = {
        "pyproject.toml": PYPROJECT, "README.md": README, f"{package}/__init__.py": INIT,
        f"{package}/plugin.py": PLUGIN, f"{package}/layers.py": LAYERS, f"{package}/metrics.py": METRICS,
        f"tests/test_{words['underscored']}.py": TESTS,
    }  # fmt: skip
    written = []
    for path, template in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(template.format(**words), encoding="utf-8")
        written.append(target)
    return written
