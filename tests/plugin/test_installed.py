"""Plugin packages of the repository, installed by pip, used by the command line and by analyses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A directory with deepstruct-example and deepstruct-example-broken installed into it."""
    target = tmp_path_factory.mktemp("installed")
    for name in ("deepstruct-example", "deepstruct-example-broken"):
        source = tmp_path_factory.mktemp("source") / name  # pip builds in place; the checkout stays clean
        shutil.copytree(ROOT / "plugins" / name, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def run(installed: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("DEEPSTRUCT_")}
    env["PYTHONPATH"] = os.pathsep.join([str(installed), str(ROOT)])
    env["OMP_NUM_THREADS"] = "1"
    env.update(environment)
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=installed, timeout=300
    )


def deepstruct(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from deepstruct.cli.main import main; main(sys.argv[1:])"
    return run(installed, "-c", code, *arguments, **environment)


def test_the_tests_of_the_example_pass(installed) -> None:
    tests = ROOT / "plugins" / "deepstruct-example" / "tests"
    result = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), DEEPSTRUCT_PLUGINS="example")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout


def test_one_broken_plugin_costs_one_line(installed) -> None:
    arguments = ("analyze", "torch.nn:Identity", "--input", "1,4", "--orders", "zeroth", "--quiet", "--json")
    out = installed / "out.json"
    result = deepstruct(installed, *arguments, str(out))
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("wrote ")]
    assert len(lines) == 1, result.stderr
    assert "plugin broken (deepstruct-example-broken 0.1.0)" in lines[0]
    assert "deepstruct_example_missing_dependency" in lines[0]

    clean = deepstruct(installed, *arguments, str(installed / "clean.json"), DEEPSTRUCT_PLUGINS="example")
    assert clean.returncode == 0
    assert [line for line in clean.stderr.splitlines() if not line.startswith("wrote ")] == []
    with_broken, without = (json.loads((installed / name).read_text()) for name in ("out.json", "clean.json"))
    assert _values(with_broken) == _values(without)
    assert _values(without)


def test_strict_settings_stop_an_analysis(installed) -> None:
    result = deepstruct(installed, "analyze", "torch.nn:Identity", "--input", "1,4", DEEPSTRUCT_STRICT_PLUGINS="1")
    assert result.returncode == 2
    assert result.stderr.startswith("deepstruct: plugin broken (deepstruct-example-broken 0.1.0) failed")
    assert len(result.stderr.splitlines()) == 1


def test_the_command_of_the_example(installed, tmp_path) -> None:
    import numpy as np

    np.savez(tmp_path / "x.npz", weight=np.eye(2))
    result = deepstruct(installed, "tensors", str(tmp_path / "x.npz"), DEEPSTRUCT_PLUGINS="example")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["2x2", "50.0%", "weight"]


def test_its_record(installed) -> None:
    result = deepstruct(installed, "plugins", "--json")
    records = {record["name"]: record for record in json.loads(result.stdout)}
    assert records["example"]["state"] == "ok"
    assert records["example"]["version"] == "0.1.0"
    assert len(records["example"]["hooks"]) == 4
    assert records["broken"]["state"] == "failed"


def _values(report: dict) -> list:
    keep = ("name", "order", "scope", "value", "analyzer", "provider")
    return [{key: row.get(key) for key in keep} for row in report["rows"]]
