"""What importing the package costs, and what a wheel of it holds."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "scipy", "igraph", "networkx", "matplotlib", "pandas", "rich", "click", "sklearn")


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stderr == ""
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_deepstruct_is_light() -> None:
    loaded = modules_after("import deepstruct; deepstruct.__version__, dir(deepstruct)")
    assert loaded.isdisjoint(HEAVY)
    assert not any(name.startswith("deepstruct.plugin") for name in loaded)


def test_hookimpl_and_errors_are_light() -> None:
    loaded = modules_after(
        "import deepstruct; deepstruct.hookimpl, deepstruct.errors, deepstruct.DeepstructError"
    )
    assert loaded.isdisjoint(HEAVY)


def test_the_front_door_loads_no_graph_library() -> None:
    loaded = modules_after("import deepstruct; deepstruct.analyze, deepstruct.extract")
    assert loaded.isdisjoint(
        {"igraph", "networkx", "scipy", "matplotlib", "pandas", "rich", "click", "sklearn"}
    )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """A wheel built from a copy of the tracked files, without isolation and without network."""
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "setup.py"):
        if (ROOT / name).exists():
            (source / name).write_bytes((ROOT / name).read_bytes())
    for file in (ROOT / "deepstruct").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".so":
            target = source / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source],
        check=True,
        capture_output=True,
        text=True,
    )
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel) -> None:
    names = wheel.namelist()
    assert "deepstruct/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops  # the package and its .dist-info
    packaged = {name for name in names if name.startswith("deepstruct/") and name.endswith(".py")}
    tracked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "deepstruct").rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert packaged == tracked


def test_the_metadata_of_the_wheel(wheel) -> None:
    import deepstruct

    (info,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(info).decode()
    assert f"Version: {deepstruct.__version__}\n" in metadata
    assert "License-Expression: MIT\n" in metadata
    assert "Requires-Python: >=3.10\n" in metadata
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "deepstruct = deepstruct.cli.main:main" in wheel.read(points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_every_package_has_an_init() -> None:
    # find packages would leave out a folder without one, and the wheel would lack it.
    folders = {path.parent for path in (ROOT / "deepstruct").rglob("*.py") if "__pycache__" not in path.parts}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
