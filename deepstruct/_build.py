"""Builds the compiled kernels: `deepstruct build-ext`, and setup.py by way of it.

It imports nothing of deepstruct, so that setup.py can run it from a checkout that is not installed yet.
The compiler is called per file, since each instruction set is a translation unit with flags of its own.
There are two libraries: the graph kernels (a Python extension, which needs pybind11), and those of the masked
layers (operators of torch, which need torch).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
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
_MARK = "deepstruct sources "
TORCH_TARGET = "0x020a000000000000"  # the stable ABI of torch 2.10


class BuildError(RuntimeError):
    """There is no compiler, no headers to build against, or the compiler refuses; the message says which."""


def suffix() -> str:
    """How a shared library's name ends here."""
    return ".pyd" if sys.platform == "win32" else ".so"


def extension_name(name: str) -> str:
    """File name of a Python extension for this very Python."""
    return name + str(sysconfig.get_config_var("EXT_SUFFIX") or suffix())


def user_folder() -> Path:
    """Where libraries go when the package's own folder cannot be written to: a cache folder of the user."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "deepstruct"


def source_folder(kind: str) -> Path:
    """csrc/graph or csrc/masked of the checkout, or its copy in an installed package."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1] / "csrc" / kind, here.parent / "_csrc" / kind):
        if (folder / "kernels.h").is_file():
            return folder
    raise BuildError(f"the sources are missing: neither csrc/{kind} nor deepstruct/_csrc/{kind} is here")


def stamp(kind: str) -> str:
    """Says which sources a library is of: 16 hexadecimal digits over the names and bytes of csrc/graph or csrc/masked.

    A library that an older version left behind would be called with what it does not know.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(source_folder(kind).iterdir()):
        if path.suffix in (".cpp", ".h", ".inl"):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def check_stamp(library: Path, kind: str) -> None:
    """ImportError where a library was built from other sources than those that are here. It is read, not loaded."""
    try:
        wanted = _MARK + stamp(kind)
    except BuildError:  # no sources here, so nothing to be older than
        return
    if wanted.encode() not in library.read_bytes():
        raise ImportError("it was built from other sources: `deepstruct build-ext` builds it anew")


def compiler() -> list[str]:
    """The C++ compiler: CXX if set, else c++, g++ or clang++."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    for candidate in [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(candidate[0]):
            return candidate
    name = chosen[0] if chosen else "c++"
    raise BuildError(f"there is no C++ compiler ({name}): install g++ or clang, or set CXX")


def build_graph(target: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The graph kernels, as the extension module `deepstruct._graph` of this Python; pybind11 has its headers."""
    folder, cxx = source_folder("graph"), compiler()
    try:
        import pybind11
    except ImportError as error:
        raise BuildError(f"pybind11 is needed to build against, and cannot be imported: {error}") from error
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise BuildError(f"Python's headers are missing (no Python.h in {headers}): install python3-dev")
    bindings = [f"-isystem{path}" for path in (pybind11.get_include(), headers)]
    # They spend no time worth optimising, except the compiler's.
    flags = {name: [*bindings, "-O1"] for name in ("bind.cpp", "bind_explicit.cpp")}
    if (folder / "bind_explicit.cpp").is_file():
        flags["bind.cpp"].append("-DDEEPSTRUCT_EXPLICIT")
    link = ["-pthread"] if sys.platform != "win32" else []
    return _build(folder, cxx, flags, link, target, say)


def build_masked(target: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The kernels of the masked layers, against the torch that is installed."""
    folder, cxx = source_folder("masked"), compiler()
    try:
        import torch
        from torch.utils.cpp_extension import include_paths
    except ImportError as error:
        raise BuildError(f"torch is needed to build against, and cannot be imported: {error}") from error
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    flags = {"binding.cpp": [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *includes]}
    libraries = Path(torch.__file__).parent / "lib"
    return _build(folder, cxx, flags, [f"-L{libraries}", "-ltorch_cpu"], target, say)


def _build(
    folder: Path, cxx: list[str], flags: dict[str, list[str]], link: list[str], target: Path,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """Compile everything in a folder and put the library at `target`, in one step: never a half-written file.

    Raises BuildError with the compiler's first lines when something fails.
    """
    names = [path.name for path in sorted(folder.glob("*.cpp"))]
    names = [name for name in names if not name.startswith("isa_") or name in ISA_FLAGS]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as objects_folder:

        def compile_one(name: str) -> str:
            output = str(Path(objects_folder) / f"{name}.o")
            extra = [*ISA_FLAGS.get(name, []), *flags.get(name, [])]
            _run([*cxx, *COMMON, *extra, "-c", str(folder / name), "-o", output])
            say(f"compiled {folder.name}/{name}")
            return output

        marked = Path(objects_folder) / "stamp.cpp"
        marked.write_text(
            f'extern "C" __attribute__((visibility("default"))) const char deepstruct_{folder.name}_sources[];\n'
            f'const char deepstruct_{folder.name}_sources[] = "{_MARK}{stamp(folder.name)}";\n'
        )
        _run([*cxx, *COMMON, "-c", str(marked), "-o", f"{marked}.o"])
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            objects = [*pool.map(compile_one, names), f"{marked}.o"]
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        # Beside its target, so that the rename stays within one file system.
        handle, unfinished = tempfile.mkstemp(suffix=".part", dir=target.parent)
        os.close(handle)
        try:
            _run([*cxx, "-shared", *undefined, *objects, *link, "-o", unfinished])
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
