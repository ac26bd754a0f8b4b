"""Finds and loads the compiled kernels, or says once, in one line, that PyTorch does their work."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from deepstruct._build import check_stamp
from deepstruct.sparse.build import suffix

NAME = "_masked"
_state: dict[str, str | None] = {"path": None, "problem": None}
_told = False


def installed_path() -> Path:
    """Where a build puts the library when the package's own folder can be written to."""
    return Path(__file__).resolve().parents[1] / f"{NAME}.abi3{suffix()}"


def user_path() -> Path:
    """Where it goes otherwise: a cache folder of the user."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "deepstruct" / f"{NAME}.abi3{suffix()}"


def load() -> None:
    """Load the library if there is one: its kernels take over the CPU. Never raises."""
    if _state["path"] is not None:
        return
    if os.environ.get("DEEPSTRUCT_NATIVE", "1") == "0":
        _state["problem"] = "switched off by DEEPSTRUCT_NATIVE=0"
        return
    explicit = os.environ.get("DEEPSTRUCT_MASKED_LIBRARY")
    candidates = [Path(explicit)] if explicit else [installed_path(), user_path()]
    found = [path for path in candidates if path.is_file()]
    if not found:
        _state["problem"] = "not built"
        return
    import torch

    for path in found:
        try:
            check_stamp(path, "masked")  # by hand first: what is broken about a library is said best by the linker
            ctypes.CDLL(str(path))
            torch.ops.load_library(str(path))
        except (OSError, RuntimeError, ImportError) as error:
            _state["problem"] = f"{path} cannot be loaded: {str(error).splitlines()[0]}"
            continue
        _state["path"], _state["problem"] = str(path), None
        return


def path() -> str | None:
    """The library that runs, or None for PyTorch."""
    return _state["path"]


def problem() -> str | None:
    """Why no library runs."""
    return _state["problem"]


def tell_once() -> None:
    """One line on stderr, at first use, when there are no compiled kernels."""
    global _told
    if _told or _state["path"] is not None:
        return
    _told = True
    if os.environ.get("DEEPSTRUCT_NATIVE", "1") != "0":
        print(
            f"deepstruct: sparse layers run on plain PyTorch (extension: {_state['problem']}); "
            "`deepstruct build-ext` builds it",
            file=sys.stderr,
        )


def isa() -> str:
    """The instruction set of the kernels that run: avx512, avx2, plain, or "pytorch" without them."""
    if _state["path"] is None:
        return "pytorch"
    function = ctypes.CDLL(_state["path"]).deepstruct_masked_isa
    function.restype = ctypes.c_char_p
    return function().decode()
