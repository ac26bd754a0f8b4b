"""Folders of torch.distributed.checkpoint (DCP), read without its loader.

The loader of torch unpickles the folder's metadata and every entry that is no tensor. Here the metadata is
unpickled with the few classes that it is made of, and tensors alone are read.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from deepstruct.errors import CheckpointError

METADATA = ".metadata"

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed._shard.sharded_tensor.metadata": {"TensorProperties"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath", "Path", "PurePosixPath"},
    "pathlib._local": {"PosixPath", "WindowsPath", "Path", "PurePosixPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip


class DistributedReader:
    """Folders with `.metadata` and `*.distcp` files, as torch.distributed.checkpoint writes them."""

    name = "dcp"
    safe = True

    def probe(self, path: Path, head: bytes) -> int:
        return 85 if path.is_dir() and (path / METADATA).is_file() else 0

    def open(self, path: Path) -> Any:
        """The tensors of the folder, under their flat names; CheckpointError when a part is missing or damaged."""
        metadata = _metadata(path)
        try:
            return _tensors(path, metadata)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read as a distributed checkpoint: {type(error).__name__}: {error}; it may be "
                "damaged or incomplete"
            ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        if name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), (torch.dtype, torch.layout)):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no part of such metadata")


def _metadata(folder: Path) -> Any:
    file = folder / METADATA
    try:
        with file.open("rb") as stream:
            metadata = _Unpickler(stream).load()
        if not isinstance(metadata.state_dict_metadata, dict) or not isinstance(metadata.storage_data, dict):
            raise TypeError("its tables are missing")
        return metadata
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read safely: {type(error).__name__}: {error}") from error


def _tensors(folder: Path, metadata: Any) -> dict[str, Any]:
    import torch
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    wanted = {
        name: entry for name, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
    }
    sizes = sum(file.stat().st_size for file in folder.glob("*.distcp"))
    claimed = sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in wanted.values())
    if claimed > sizes:
        raise CheckpointError(f"{folder} claims tensors of {claimed:,} bytes, its files hold {sizes:,}")
    found = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in wanted.items()}
    covered = dict.fromkeys(found, 0)
    for index, info in metadata.storage_data.items():
        target = found.get(index.fqn)
        if target is None:
            continue
        piece = _piece(folder, info)
        offset = index.offset if index.offset is not None else torch.Size([0] * piece.dim())
        view = target
        for axis, (begin, length) in enumerate(zip(offset, piece.shape, strict=True)):
            view = view.narrow(axis, begin, length)
        view.copy_(piece)
        covered[index.fqn] += piece.numel()
    short = [name for name, count in covered.items() if count < found[name].numel()]
    if short:
        raise CheckpointError(f"{folder} lacks parts of {len(short)} tensors, the first is {short[0]!r}")
    return found


def _piece(folder: Path, info: Any) -> Any:
    import torch

    name = str(info.relative_path)
    if Path(name).name != name:
        raise CheckpointError(f"{folder}: its metadata names the file {name!r}, which lies outside of it")
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(f"{folder}: {name} is stored transformed (compressed or encrypted): load it with torch")
    with (folder / name).open("rb") as stream:
        stream.seek(int(info.offset))
        data = stream.read(int(info.length))
    if len(data) < int(info.length):
        raise CheckpointError(f"{folder / name} is cut short")
    return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
