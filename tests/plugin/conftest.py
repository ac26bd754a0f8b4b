"""Plugins as installed distributions: a module and a .dist-info directory on sys.path."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., str]


class Recorder:
    """Stands for stderr and keeps the lines."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on sys.path where distributions are installed; what was imported from it is forgotten."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    before = set(sys.modules)
    yield directory
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(directory)):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Install a distribution: install("acme", source) makes distribution deepstruct-acme 1.2, plugin acme."""

    def write(
        name: str,
        source: str,
        *,
        distribution: str = "",
        version: str = "1.2",
        entry: str = "",
        metadata: bool = True,
    ) -> str:
        distribution = distribution or f"deepstruct-{name}"
        module = f"plugin_{distribution}_{name}".replace("-", "_").replace(".", "_")
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        points = info / "entry_points.txt"
        lines = points.read_text() if points.exists() else "[deepstruct.plugins]\n"
        points.write_text(f"{lines}{name} = {entry or module}\n")
        return module

    return write
