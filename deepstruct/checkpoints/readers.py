"""The readers that are built in: files of `torch.save`, old and new, and safetensors.

A reader says by `probe` how sure it is that a file is its own, from 0 (no) to 100, from the path and
the first bytes alone; `open` returns what the file holds. `safe` states that opening runs no code of
the file.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deepstruct.errors import CheckpointError, MissingExtraError
from deepstruct.plugin.markers import hookimpl

HEAD_BYTES = 512
"""How much of a file `probe` is shown."""

_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # what torch.save wrote first before its zip format
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


@runtime_checkable
class Reader(Protocol):
    """What a checkpoint reader is (see `deepstruct_checkpoint_readers`)."""

    name: str
    safe: bool

    def probe(self, path: Path, head: bytes) -> int: ...

    def open(self, path: Path) -> Any: ...


class TorchReader:
    """Files of `torch.save`: only tensors and plain containers are unpickled; zip files are mapped."""

    name = "torch"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        """90 by the first bytes, 20 by the suffix alone (so that a damaged file gets a clear error)."""
        if _LEGACY_MAGIC in head[:32] or (head.startswith(_ZIP) and path.suffix.lower() in _SUFFIXES):
            return 90
        if head.startswith(_ZIP):
            return 50
        return 20 if path.suffix.lower() in _SUFFIXES else 0

    def open(self, path: Path) -> Any:
        """Tensors on the CPU in the containers they were saved in; CheckpointError for anything unsafe."""
        import torch

        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_torchscript(path)
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
        except pickle.UnpicklingError as error:
            raise CheckpointError(_refused(path, error)) from error
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a file of torch.save: {_first_line(error)}; "
                "it may be damaged or cut short"
            ) from error


class SafetensorsReader:
    """Files of the safetensors library."""

    name = "safetensors"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        """90 when the header looks right: its length in eight bytes, then JSON; 30 by the suffix alone."""
        if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
            return 90
        return 30 if path.suffix.lower() == ".safetensors" else 0

    def open(self, path: Path) -> Any:
        """The tensors of the file, mapped where possible."""
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingExtraError(
                f"{path} is a safetensors file: reading it needs the safetensors package "
                "(pip install 'deepstruct[safetensors]')"
            ) from error
        try:
            return load_file(path, device="cpu")
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read as safetensors: {_first_line(error)}") from error


@hookimpl
def deepstruct_checkpoint_readers() -> list[Reader]:
    """The readers that are built in."""
    return [TorchReader(), SafetensorsReader()]


def _refuse_torchscript(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript archive, not a checkpoint: "
            "save the state with torch.save(torch.jit.load(path).state_dict(), new_path)"
        )


def _refused(path: Path, error: Exception) -> str:
    wanted = _unsafe_globals(path) or re.findall(r"(?:GLOBAL|global:?)\s+([\w.]+\.[\w.]+)", str(error))
    what = f" ({', '.join(sorted(set(wanted)))})" if wanted else f": {_first_line(error)}"
    return (
        f"{path} holds pickled objects that could run code when loaded{what}; only tensors and plain "
        "containers are read. If you trust the file, load it yourself with "
        "torch.load(path, weights_only=False) and save its state_dict() again"
    )


def _unsafe_globals(path: Path) -> list[str]:
    import torch

    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # it reads zip files only; the error of torch.load names the first one otherwise
        return []


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
