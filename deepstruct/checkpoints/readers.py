"""The readers that are built in: files of `torch.save`, old and new, safetensors, shards, and folders of them.

A reader says by `probe` how sure it is that a file is its own, from 0 (no) to 100, from the path and
the first bytes alone; `open` returns what the file holds. `safe` states that opening runs no code of
the file. Folders are offered with an empty head.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deepstruct.checkpoints.guards import check_archive
from deepstruct.checkpoints.permissions import permissions
from deepstruct.checkpoints.pickles import wanted_globals
from deepstruct.errors import CheckpointError, DeepstructError, MissingExtraError
from deepstruct.plugin.markers import hookimpl

HEAD_BYTES = 512
"""How much of a file `probe` is shown."""

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
"""File names that end so are taken for files of `torch.save`, whatever is in them."""

_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # what torch.save wrote first before its zip format


@runtime_checkable
class Reader(Protocol):
    """What a checkpoint reader is (see `deepstruct_checkpoint_readers`)."""

    name: str
    safe: bool

    def probe(self, path: Path, head: bytes) -> int: ...

    def open(self, path: Path) -> Any: ...


class TorchReader:
    """Files of `torch.save`: only tensors and plain containers are unpickled; zip files are mapped.

    `deepstruct.checkpoints.permissions.allowing(pickle=True)` unpickles the rest too, and notes what that was.
    """

    name = "torch"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        """90 by the first bytes, 20 by the suffix alone (so that a damaged file gets a clear error)."""
        named = path.suffix.lower() in SUFFIXES
        if _LEGACY_MAGIC in head[:32] or (head.startswith(_ZIP) and named):
            return 90
        if head.startswith(_ZIP):  # torch.save writes data.pkl first; other zip files are no business of ours
            return 50 if b"/data.pkl" in head else 5
        return 20 if named and (head or path.is_file()) else 0

    def open(self, path: Path) -> Any:
        """Tensors on the CPU in the containers they were saved in; CheckpointError for anything unsafe."""
        import torch

        if path.stat().st_size == 0:
            raise CheckpointError(f"{path} is empty (0 bytes): whoever wrote it was interrupted")
        zipped = zipfile.is_zipfile(path)
        if zipped:
            check_archive(path)
            if _is_torchscript(path):
                return _from_torchscript(path)
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
        except pickle.UnpicklingError as error:
            wanted = wanted_globals(path)
            if permissions().pickle:
                return _unpickled(path, wanted)
            raise CheckpointError(_refused(path, error, wanted)) from error
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a file of torch.save: {_first_line(error)}; it may be damaged or cut short"
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
            raise CheckpointError(
                f"{path} cannot be read as safetensors: {_first_line(error)}; it may be damaged or cut short"
            ) from error


class IndexReader:
    """Sharded checkpoints: `*.index.json` with a "weight_map" from tensor to file, beside those files."""

    name = "shards"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        return 80 if path.name.endswith(".index.json") else 0

    def open(self, path: Path) -> Any:
        """All tensors of the map. CheckpointError for shards that are missing, outside the folder, or incomplete."""
        tensors: dict[str, Any] = {}
        for shard, names in shards_of(path).items():
            file = path.parent / shard
            if not file.is_file():
                raise CheckpointError(f"{path} names the shard {shard}, which is not there")
            reader = SafetensorsReader() if file.suffix == ".safetensors" else TorchReader()
            held = reader.open(file)
            missing = [name for name in names if name not in held]
            if missing:
                raise CheckpointError(f"{file} lacks {len(missing)} tensors of its index, the first is {missing[0]!r}")
            tensors.update({name: held[name] for name in names})
        return tensors


class FolderReader:
    """Folders of the Hugging Face library: config.json beside the weights, in one file or in shards."""

    name = "huggingface"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        return 80 if path.is_dir() and weights_in_folder(path) is not None else 0

    def open(self, path: Path) -> Any:
        file = weights_in_folder(path)
        if file is None:
            raise CheckpointError(f"{path} has no {', '.join(FOLDER_FILES)}")
        for reader in (IndexReader(), SafetensorsReader(), TorchReader()):
            if reader.probe(file, b""):
                return reader.open(file)
        return TorchReader().open(file)


FOLDER_FILES = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
    "adapter_model.safetensors", "adapter_model.bin",
)  # fmt: skip
"""Where the Hugging Face library keeps weights; the first that is there counts."""


CONFIGS = ("config.json", "adapter_config.json")
"""What makes a folder with such a file one of the Hugging Face library."""


def weights_in_folder(folder: Path) -> Path | None:
    """The file of weights of a Hugging Face folder, None where the folder is none."""
    try:
        if not any((folder / name).is_file() for name in CONFIGS):
            return None
        return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    except OSError:
        return None


def shards_of(index: Path) -> dict[str, list[str]]:
    """File name -> tensors, of an index of shards; CheckpointError when it is none, or leaves its folder."""
    try:
        text = index.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index} is no index of shards: {_first_line(error)}") from error
    return shards_in(text, str(index))


def shards_in(text: str, index: str) -> dict[str, list[str]]:
    """`shards_of` the text of an index; `index` is its name in messages."""
    try:
        table = json.loads(text)["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in table.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise CheckpointError(f"{index} names the shard {file!r}: shards lie in the folder of their index")
            shards.setdefault(file, []).append(str(name))
    except DeepstructError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards: {_first_line(error)}") from error
    if not shards:
        raise CheckpointError(f"{index} names no shard")
    return shards


@hookimpl
def deepstruct_checkpoint_readers() -> list[Reader]:
    """The readers that are built in."""
    from deepstruct.checkpoints.distributed import DistributedReader

    return [TorchReader(), SafetensorsReader(), IndexReader(), FolderReader(), DistributedReader()]


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def _from_torchscript(path: Path) -> Any:
    if not permissions().torchscript:
        raise CheckpointError(
            f"{path} is a TorchScript archive, not a checkpoint: save the state with "
            "torch.save(torch.jit.load(path).state_dict(), new_path), or allow it (allow_torchscript=True, "
            "--allow-torchscript), which loads the program for its state and runs none of its methods"
        )
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            state = torch.jit.load(str(path), map_location="cpu").state_dict()
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as TorchScript: {_first_line(error)}") from error
    permissions().notes.append("state of a TorchScript program")
    return dict(state)


def _unpickled(path: Path, wanted: list[str]) -> Any:
    """Everything in the file, by running what it says; only with permission."""
    import torch

    try:
        loaded = torch.load(path, weights_only=False, map_location="cpu")
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be unpickled, though that is allowed: {_first_line(error)} (it wants "
            f"{', '.join(wanted) or 'nothing that could be named'})"
        ) from error
    permissions().notes.append(f"unpickled with permission: {', '.join(wanted[:20]) or 'objects'}")
    return loaded.state_dict() if isinstance(loaded, torch.nn.Module) else loaded


def _refused(path: Path, error: Exception, wanted: list[str]) -> str:
    wanted = wanted or re.findall(r"(?:GLOBAL|global:?)\s+([\w.]+\.[\w.]+)", str(error))
    if not wanted:
        said = re.search(r"(Unsupport|Trying to|Can only|invalid load key)[^\n]*", str(error))
        why = f" ({said[0].strip()})" if said else ""
        return (
            f"{path} cannot be read as a file of torch.save: it is no pickle of tensors and plain containers{why}; it "
            "may be damaged or cut short"
        )
    what = ", ".join(sorted(set(wanted))[:12])
    return (
        f"{path} holds pickled objects that could run code when loaded ({what}); only tensors and plain containers "
        "are read. If you trust the file, allow it (allow_pickle=True, --allow-pickle), or load it yourself with "
        "torch.load(path, weights_only=False) and save its state_dict() again"
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
