"""The environment of the original deepstruct (0.10.0 on PyPI), beside the one that runs."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / ".peers"
VERSION = "0.10.0"
# Its own pins ask for a torch below 2 and a numpy below 2: it runs on newer ones, with the names that numpy
# dropped put back (see peer_original.py). What it needs beside them is small.
_REQUIREMENTS = (f"deepstruct=={VERSION}", "deprecated", "wrapt")
_PROBE = "import numpy as np; np.float, np.int = float, int; import deepstruct.transform as t; print(t.__file__)"


def original_python(folder: Path = FOLDER) -> Path:
    """The interpreter of an environment that holds the original, made at the first call.

    torch, numpy and networkx come from the running environment, so that both sides use the same ones.
    Raises RuntimeError, with what pip or Python said, where the original cannot be installed or imported.
    """
    home = folder / f"deepstruct-{VERSION}"
    python = home / "bin" / "python"
    stamp = home / "ready"
    if stamp.exists() and stamp.read_text() == sys.executable:
        return python
    _call(sys.executable, "-m", "venv", "--clear", str(home))
    _call(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", *_REQUIREMENTS)
    own = Path(_call(str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    # Paths that a .pth file names are searched last, and the .pth files in them are not read: our own package,
    # where it is installed in development mode, does not come along.
    shared = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
    (own / "running-environment.pth").write_text("\n".join(shared) + "\n")
    found = _call(str(python), "-c", _PROBE).strip()
    if str(home) not in found:
        raise RuntimeError(f"the environment {home} imports another deepstruct: {found}")
    stamp.write_text(sys.executable)
    return python


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:4])} ... failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
