"""The plugin packages of the repository: each can be installed by itself, and comes with a README and tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
KEPT = [path for path in PACKAGES if not path.name.endswith("-broken")]


def text(path: Path, *parts: str) -> str:
    return path.joinpath(*parts).read_text(encoding="utf-8")


def test_those_that_are_promised_are_there() -> None:
    names = {path.name for path in KEPT}
    assert {f"deepstruct-{name}" for name in ("example", "peft", "quant", "homology", "networkit")} <= names


@pytest.mark.parametrize("package", KEPT, ids=lambda path: path.name)
def test_a_package_is_whole(package) -> None:
    project = text(package, "pyproject.toml")
    assert f'name = "{package.name}"' in project
    assert re.search(r'dependencies = \["deepstruct"', project)
    (entry,) = re.findall(r'\[project\.entry-points\."deepstruct\.plugins"\]\n\w+ = "([\w.]+)"', project)
    module = package.joinpath(*entry.split("."))
    assert module.with_suffix(".py").is_file()
    assert "@hookimpl" in module.with_suffix(".py").read_text()
    assert "pip install" in text(package, "README.md")
    assert list(package.glob("tests/test_*.py"))


@pytest.mark.parametrize("package", KEPT, ids=lambda path: path.name)
def test_what_is_heavy_is_not_imported_by_the_module_of_the_hooks(package) -> None:
    for line in text(package, package.name.replace("-", "_"), "plugin.py").splitlines():
        assert not re.match(r"(import|from) (torch|gudhi|networkit|peft|torchao|distributed|numpy)\b", line), line


def test_continuous_integration_runs_their_tests() -> None:
    makefile = text(ROOT, "Makefile")
    assert re.search(r"^test:.* plugins", makefile, re.MULTILINE)
    assert "for tests in plugins/*/tests" in makefile
    requirements = text(ROOT, "requirements", "plugins.txt")
    for name in ("peft", "torchao", "gudhi", "networkit"):
        assert f"\n{name}==" in requirements
