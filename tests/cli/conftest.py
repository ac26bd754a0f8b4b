"""Running the command line: in this process, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepstruct.cli.main import main


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """run("plugins", "--json"): the command line in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(end.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def spawn(tmp_path: Path) -> Callable[..., Outcome]:
    """spawn("plugins", path=[...], env={...}): a process of its own, in an empty folder."""

    def call(*arguments: object, path: tuple[Path, ...] = (), env: dict[str, str] | None = None) -> Outcome:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DEEPSTRUCT_")}
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, path), *sys.path[1:]])
        environment.update(env or {})
        code = "import sys; from deepstruct.cli.main import main; main(sys.argv[1:])"
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
        )
        return Outcome(result.returncode, result.stdout, result.stderr)

    return call


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file with an MLP 8-4-2 and other things that a person may name."""
    path = tmp_path / "nets.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Linear(3, 2)\n"
        "    def forward(self, x, scale=None):\n"
        "        y = self.inner(x)\n"
        "        return y if scale is None else y * scale\n"
        "class Tokens(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed = nn.Embedding(5, 4)\n"
        "        self.head = nn.Linear(4, 3)\n"
        "    def forward(self, ids):\n"
        "        return self.head(self.embed(ids))\n"
        "class Space:\n"
        "    net = Net\n"
        "instance = Net()\n"
        "number = 7\n"
        "def wrong():\n"
        "    return 7\n"
        "def needs(width):\n"
        "    return nn.Linear(width, 1)\n"
        "def fails():\n"
        "    raise KeyError('inside')\n"
    )
    return path
