"""Checks on files from anywhere, before and after they are read: archives that unpack to far more than they hold."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from deepstruct.errors import CheckpointError

EXPANSION = 20
"""How many times its own size a file may claim to hold: torch.save does not compress, and compressed weights shrink
to a third at best, so that more is an attack or damage."""

_ALLOWED = 64 << 20  # bytes that any file may unpack to


def check_archive(path: Path) -> None:
    """Raise CheckpointError for a zip file whose members claim far more than the file can hold (a zip bomb)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is a damaged zip file: {error}; it may be cut short") from error
    size = path.stat().st_size
    claimed = sum(info.file_size for info in members)
    if claimed > max(EXPANSION * size, _ALLOWED) or (
        claimed > size + _ALLOWED and all(info.compress_type == zipfile.ZIP_STORED for info in members)
    ):
        raise CheckpointError(
            f"{path} claims to unpack to {claimed:,} bytes from {size:,}: it looks like a zip bomb, and is not read"
        )


def check_tensors(state: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for tensors that repeat a small storage until they are huge, and without values."""
    apparent = stored = 0
    storages = set()
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(f"{source}: {name!r} has no values (it was saved from the meta device)")
        if tensor.layout is not torch.strided:
            raise CheckpointError(
                f"{source}: {name!r} has the layout {tensor.layout}; save it dense (tensor.to_dense()) to have it read"
            )
        apparent += tensor.numel() * tensor.element_size()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            storages.add(storage.data_ptr())
            stored += storage.nbytes()
    if apparent > max(EXPANSION * stored, _ALLOWED):
        raise CheckpointError(
            f"{source} claims tensors of {apparent:,} bytes over {stored:,} stored ones: it is not read further"
        )
