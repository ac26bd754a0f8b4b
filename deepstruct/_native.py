"""Finding the compiled graph kernels, `deepstruct._graph`. Everything works without them, slower.

They stand beside all rooms: structure builds explicit graphs with them, the engine its passes.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from deepstruct._build import BuildError, check_stamp, extension_name, user_folder

NAME = "deepstruct._graph"
_OFF = "switched off by DEEPSTRUCT_NATIVE=0"


def load() -> ModuleType | None:
    """The extension module; None where it is not built, does not load, or is switched off."""
    return None if switched_off() else _found()[0]


def problem() -> str | None:
    """Why there are no compiled kernels, in one line; None where there are."""
    return _OFF if switched_off() else _found()[1]


def switched_off() -> bool:
    """Whether the environment says DEEPSTRUCT_NATIVE=0."""
    return os.environ.get("DEEPSTRUCT_NATIVE") == "0"


def installed_path() -> Path:
    """Where a build puts the library when the package's own folder can be written to."""
    return Path(__file__).resolve().parent / extension_name("_graph")


def candidates() -> list[Path]:
    """Where the library may lie: DEEPSTRUCT_GRAPH_LIBRARY alone if set, else the package or the user's cache."""
    explicit = os.environ.get("DEEPSTRUCT_GRAPH_LIBRARY")
    return [Path(explicit)] if explicit else [installed_path(), user_folder() / extension_name("_graph")]


@lru_cache(maxsize=1)
def _found() -> tuple[ModuleType | None, str | None]:
    reason = "not built"
    for place in candidates():
        if not place.is_file():
            continue
        try:
            check_stamp(place, "graph")
            return _import(place), None
        except (ImportError, OSError) as error:
            reason = f"{place} does not load: {' '.join(str(error).split())}"
    return None, reason


def _import(place: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(place))
    spec = importlib.util.spec_from_file_location(NAME, place, loader=loader)
    if spec is None:
        raise ImportError("no Python extension")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module


def try_loading(library: Path) -> str:
    """The instruction set that a fresh Python finds in a library; BuildError when it does not run."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "DEEPSTRUCT_GRAPH_LIBRARY": str(library.resolve()),
        "DEEPSTRUCT_NATIVE": "1",
    }
    trial = "from deepstruct import _native as n; print(n.load().isa() if n.load() else 'PROBLEM ' + str(n.problem()))"
    done = subprocess.run([sys.executable, "-c", trial], env=environment, capture_output=True, text=True, check=False)
    said = (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    if done.returncode != 0 or said.startswith("PROBLEM"):
        raise BuildError(f"{library} was built, but does not run: {said}")
    return said
