"""The CUDA kernels: built with nvcc where torch has CUDA, loaded where there is a GPU, left out elsewhere.

Without them, and for dtypes that they do not compute in, sparse layers on a GPU run on the PyTorch reference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepstruct._build import user_folder
from deepstruct.sparse.build import TORCH_TARGET, BuildError, compiler, source_folder, suffix

NAME = "_masked_cuda"
ARCHITECTURES = ("80", "90")  # compute capabilities; the last one also as PTX, for GPUs to come
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_state: dict[str, str | None] = {"path": None, "problem": "not asked for"}


def installed_path() -> Path:
    """Where a build puts the library: the package's own folder, or the user's cache when that is read-only."""
    name = f"{NAME}.abi3{suffix()}"
    package = Path(__file__).resolve().parents[1]
    return package / name if os.access(package, os.W_OK) or (package / name).is_file() else user_folder() / name


def missing() -> str | None:
    """Why the library cannot be built here, or None where it can."""
    if torch.version.cuda is None:
        return "this torch is a CPU build: install one with CUDA to use the CUDA kernels"
    try:
        nvcc()
    except BuildError as error:
        return str(error)
    return None


def nvcc() -> str:
    """The CUDA compiler: of CUDA_HOME if set, else on the PATH. Raises BuildError where there is none."""
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")
    if found is None:
        raise BuildError("there is no nvcc: install the CUDA toolkit, or set CUDA_HOME")
    return found


def compile_objects(folder: Path) -> list[Path]:
    """Object files of the kernels (for all `ARCHITECTURES`) and of the binding, in `folder`.

    This needs nvcc and torch's headers, but neither a GPU nor a torch with CUDA.
    """
    from torch.utils.cpp_extension import include_paths

    sources = source_folder() / "cuda"
    kernels, binding = folder / "launch.o", folder / "binding.o"
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    targets.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    _run([nvcc(), "-std=c++17", "-O3", "-Xcompiler", "-fPIC", *targets, "-c", str(sources / "launch.cu"),
          "-o", str(kernels)])  # fmt: skip
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    _run([*compiler(), "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-DUSE_CUDA",
          f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *includes, "-c", str(sources / "binding.cpp"),
          "-o", str(binding)])  # fmt: skip
    return [kernels, binding]


def build(target: Path | None = None) -> Path:
    """Compile and link the CUDA library. Raises BuildError where torch has no CUDA or a compiler is missing."""
    reason = missing()
    if reason is not None:
        raise BuildError(reason)
    place = target or installed_path()
    place.parent.mkdir(parents=True, exist_ok=True)
    libraries = Path(torch.__file__).parent / "lib"
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_objects(Path(folder))
        unfinished = place.with_suffix(f".{os.getpid()}.part")
        try:
            _run([nvcc(), "-shared", *map(str, objects), f"-L{libraries}", "-ltorch_cpu", "-ltorch_cuda",
                  "-o", str(unfinished)])  # fmt: skip
            os.replace(unfinished, place)  # in one step: never a half-written library
        finally:
            unfinished.unlink(missing_ok=True)
    return place


def load() -> None:
    """Load the library if there is one and a GPU to run it. Never raises."""
    if _state["path"] is not None:
        return
    if os.environ.get("DEEPSTRUCT_NATIVE", "1") == "0":
        _state["problem"] = "switched off by DEEPSTRUCT_NATIVE=0"
    elif torch.version.cuda is None:
        _state["problem"] = "this torch is a CPU build"
    elif not installed_path().is_file():
        _state["problem"] = "not built: `deepstruct build-ext` builds it"
    else:
        try:
            torch.ops.load_library(str(installed_path()))
        except (OSError, RuntimeError) as error:
            _state["problem"] = f"{installed_path()} cannot be loaded: {str(error).splitlines()[0]}"
        else:
            _state["path"], _state["problem"] = str(installed_path()), None


def state() -> str:
    """One line for `deepstruct doctor`."""
    return _state["path"] or f"off ({_state['problem']})"


def chosen(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The CUDA implementation of an op: the compiled kernel where it computes in the dtype, else the reference."""

    def run(first: Tensor, *rest: Any) -> Any:
        if _state["path"] is not None and first.dtype in DTYPES:
            return getattr(torch.ops.deepstruct, f"_cuda_{name}")(first, *rest)
        return plain(first, *rest)

    return run


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line.lower()]
        raise BuildError(f"{command[0]} failed: " + " | ".join(lines[:3] or done.stderr.splitlines()[:3]))
