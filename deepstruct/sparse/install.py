"""Where a built library goes, whether it works, and what `deepstruct doctor` says about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deepstruct.sparse import extension
from deepstruct.sparse.build import BuildError

_TRIAL = (
    "import torch, deepstruct.sparse as s; from deepstruct.sparse import extension as e; "
    "l = s.SparseLinear(8, 8); l(torch.ones(3, 8)).sum().backward(); "
    "print(e.isa() if e.path() else 'PROBLEM ' + str(e.problem()))"
)


def default_target() -> Path:
    """The package's own folder, or the user's cache folder when that cannot be written to."""
    place = extension.installed_path()
    return place if os.access(place.parent, os.W_OK) else extension.user_path()


def try_loading(library: Path) -> str:
    """The instruction set that a fresh Python finds in the library; BuildError when it does not run."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "DEEPSTRUCT_MASKED_LIBRARY": str(library.resolve()),
        "DEEPSTRUCT_NATIVE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _TRIAL], env=environment, capture_output=True, text=True, check=False
    )
    said = done.stdout.strip().splitlines()
    if done.returncode != 0 or not said or said[-1].startswith("PROBLEM"):
        reason = (
            said[-1] if said else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        )
        raise BuildError(f"{library} was built, but does not run: {reason}")
    return said[-1]


def report() -> list[tuple[str, str]]:
    """Lines for `deepstruct doctor`; the crossover is measured if it is not known yet."""
    import torch

    from deepstruct.sparse import calibration, cuda, ops  # noqa: F401  (importing the ops loads the libraries)

    gpu = ("cuda ext", cuda.state())
    if extension.path() is None:
        said = f"{extension.problem()}: sparse layers run on PyTorch; `deepstruct build-ext` builds it"
        return [gpu, ("masked ext", said)]
    lines = [
        gpu,
        ("masked ext", str(extension.path())),
        ("masked isa", f"{extension.isa()}, {torch.get_num_threads()} threads"),
    ]
    fixed = calibration.override()
    if fixed is not None:
        return [*lines, ("crossover", f"density {fixed:g}, set by DEEPSTRUCT_CROSSOVER")]
    table = calibration.crossovers()
    shown = "; ".join(f"{name}: {density:g}" for name, density in table.items())
    return [*lines, ("crossover", f"sparse pays up to density, by layer and batch: {shown}")]
