"""Builds the compiled kernels: `deepstruct build-ext`, and setup.py by way of it.

It imports nothing of deepstruct, so that setup.py can run it from a checkout that is not installed yet.
The compiler is called per file, since each instruction set is a translation unit with flags of its own.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

X86 = platform.machine().lower() in ("x86_64", "amd64")
COMMON = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
ISA_FLAGS: dict[str, list[str]] = {"isa_plain.cpp": []}
if X86:
    ISA_FLAGS |= {
        "isa_avx2.cpp": ["-mavx2", "-mfma"],
        "isa_avx512.cpp": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
    }
    COMMON.append("-DDEEPSTRUCT_X86")
SOURCES = [*ISA_FLAGS, "build.cpp", "dispatch.cpp", "linear.cpp", "binding.cpp"]
TORCH_TARGET = "0x020a000000000000"  # the stable ABI of torch 2.10


class BuildError(RuntimeError):
    """There is no compiler, no torch with headers, or the compiler refuses; the message says which."""


def suffix() -> str:
    """How a shared library's name ends here."""
    return ".pyd" if sys.platform == "win32" else ".so"


def source_folder() -> Path:
    """csrc/masked of the checkout, or its copy in an installed package."""
    here = Path(__file__).resolve()
    for folder in (here.parents[2] / "csrc" / "masked", here.parents[1] / "_csrc" / "masked"):
        if (folder / "binding.cpp").is_file():
            return folder
    raise BuildError("the sources are missing: neither csrc/masked nor deepstruct/_csrc/masked is here")


def compiler() -> list[str]:
    """The C++ compiler: CXX if set, else c++, g++ or clang++."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for candidate in [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(candidate[0]):
            return candidate
    name = chosen[0] if chosen else "c++"
    raise BuildError(f"there is no C++ compiler ({name}): install g++ or clang, or set CXX")


def build(target: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Compile everything and put the library at `target`, in one step: never a half-written file.

    Raises BuildError with the compiler's first lines when something is missing or fails.
    """
    sources, cxx = source_folder(), compiler()
    try:
        import torch
        from torch.utils.cpp_extension import include_paths
    except ImportError as error:
        raise BuildError(f"torch is needed to build against, and cannot be imported: {error}") from error
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:

        def compile_one(name: str) -> str:
            output = str(Path(folder) / f"{name}.o")
            extra = ISA_FLAGS.get(name, [])
            if name == "binding.cpp":
                extra = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *includes]
            _run([*cxx, *COMMON, *extra, "-c", str(sources / name), "-o", output])
            say(f"compiled {name}")
            return output

        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            objects = list(pool.map(compile_one, SOURCES))
        libraries = Path(torch.__file__).parent / "lib"
        link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        # Beside its target, so that the rename stays within one file system.
        handle, unfinished = tempfile.mkstemp(suffix=".part", dir=target.parent)
        os.close(handle)
        try:
            _run([*cxx, "-shared", *link, *objects, f"-L{libraries}", "-ltorch_cpu", "-o", unfinished])
            os.chmod(unfinished, 0o755)
            os.replace(unfinished, target)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line.lower()
        ] or done.stderr.splitlines()
        raise BuildError(f"{command[0]} failed on {command[-3]}: " + " | ".join(lines[:3]))
