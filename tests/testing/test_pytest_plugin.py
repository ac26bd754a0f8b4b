"""The fixture `plugin_manager`, as a plugin author's test gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct import hookimpl
from deepstruct.errors import PluginError
from deepstruct.metrics.base import Metric
from deepstruct.plugin import get_host
from deepstruct.testing.pytest_plugin import PluginManager


@pytest.fixture
def manager():
    manager = PluginManager()
    assert manager.host is get_host()
    yield manager
    manager._close()


class Acme:
    @hookimpl
    def deepstruct_metrics(self):
        return [Metric("half", "operator", lambda view: view.graph.num_nodes / 2, definition="n / 2")]


def test_what_is_registered_takes_part_at_once(manager) -> None:
    manager.registry.collect_all()
    record = manager.register(Acme)
    assert (record.name, record.state, record.hooks) == ("Acme", "ok", ["deepstruct_metrics"])
    report = deepstruct.analyze(nn.Linear(3, 3), torch.ones(1, 3), orders=("zeroth",), metrics=["half"])
    assert report["zeroth"]["half"] == 3
    manager.unregister("Acme")
    assert "half" not in [metric.name for metric in manager.registry.metrics]
    with pytest.raises(KeyError):
        manager.unregister("Acme")


def test_failures_are_messages_or_errors(manager) -> None:
    record = manager.register(object(), "empty")
    assert record.state == "failed"
    (line,) = manager.messages
    assert "plugin empty" in line
    manager.unregister("empty")
    manager.strict = True
    with pytest.raises(PluginError, match="plugin empty"):
        manager.register(object(), "empty")


def test_nothing_is_left_behind() -> None:
    before = get_host()
    manager = PluginManager()
    manager.register(Acme)
    assert get_host() is manager.host is not before
    manager._close()
    assert get_host() is before


def test_in_a_session_of_its_own(tmp_path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from deepstruct.plugin import get_host\n"
        "def test_isolated(plugin_manager):\n"
        "    assert get_host() is plugin_manager.host\n"
        "    assert all(record.builtin for record in plugin_manager.host.records())\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    from importlib.metadata import entry_points

    if not entry_points(group="pytest11", name="deepstruct"):  # deepstruct runs from a checkout, not installed
        command += ["-p", "deepstruct.testing.pytest_plugin"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_it_is_light() -> None:
    code = "import sys, deepstruct.testing.pytest_plugin; print('torch' in sys.modules, 'igraph' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout.split() == ["False", "False"]
