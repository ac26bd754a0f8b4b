"""`deepstruct plugin new` writes a package that installs, and whose tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_new_package_installs_and_its_tests_pass(run, tmp_path) -> None:
    result = run("plugin", "new", "my-acme", "--into", tmp_path)
    assert result.code == 0, result.err
    folder = tmp_path / "deepstruct-my-acme"
    assert (folder / "deepstruct_my_acme" / "plugin.py").is_file()
    assert str(folder / "pyproject.toml") in result.out
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(folder)], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DEEPSTRUCT_", "PYTEST_"))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(target), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    code = "import sys; from deepstruct.cli.main import main; main(sys.argv[1:])"
    listed = subprocess.run(
        [sys.executable, "-c", code, "plugins", "--check", "my-acme"], env=environment, cwd=target,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "my-acme (deepstruct-my-acme 0.1.0): ok" in listed.stdout
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "tests")]
    from importlib.metadata import entry_points

    if not entry_points(group="pytest11", name="deepstruct"):
        tests += ["-p", "deepstruct.testing.pytest_plugin"]
    done = subprocess.run(tests, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("name", ["Acme", "a_b", "1st", "", "a b", "-x-", "import", "../up"])
def test_names_that_will_not_do(run, tmp_path, name) -> None:
    result = run("plugin", "new", "--into", tmp_path, "--", name)
    assert result.code == 2
    assert "cannot be the name of a plugin" in result.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(run, tmp_path) -> None:
    (tmp_path / "deepstruct-acme").mkdir()
    result = run("plugin", "new", "deepstruct-acme", "--into", tmp_path)
    assert result.code == 2
    assert "exists: nothing was written" in result.err
    assert list((tmp_path / "deepstruct-acme").iterdir()) == []
