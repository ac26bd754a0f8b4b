"""One checkpoint, read with everything that a table says about it: content hash, reader, step, remarks."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepstruct.checkpoints.discover import NAMED, Found, member_files
from deepstruct.checkpoints.load import open_checkpoint
from deepstruct.checkpoints.permissions import allowing
from deepstruct.checkpoints.remote import fetch
from deepstruct.checkpoints.unwrap import find_state, find_step
from deepstruct.errors import CheckpointError
from deepstruct.plugin import Registry

_BLOCK = 1 << 20
_COUNTER = re.compile(r"(?:^|[-_= ]|step|steps|epoch|ep|iter|it|ckpt|checkpoint)(\d+)$", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a model as it was found.

    Attributes:
        state: name -> tensor on the CPU.
        reader: name of the reader that opened it.
        step: what the checkpoint says it is of, else the last number in its name.
        notes: what was peculiar.
    """

    state: Mapping[str, Tensor]
    reader: str
    step: int | None
    notes: tuple[str, ...]


@contextmanager
def local_copy(found: Found) -> Iterator[Path]:
    """The file or folder on this machine: itself, or a temporary copy of what is remote."""
    if found.problem:
        raise CheckpointError(f"{found.path}: {found.problem}")
    if not found.remote:
        yield Path(found.path)
        return
    with tempfile.TemporaryDirectory(prefix="deepstruct-") as folder:
        yield fetch(found.path, found.members, Path(folder))


def content_hash(path: Path) -> str:
    """Of the bytes of a checkpoint: 32 hexadecimal digits of BLAKE2b; of several files, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    files = member_files(path)
    try:
        for file in files:
            if len(files) > 1:
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def tensor_hash(tensor: Tensor) -> bytes:
    """Of the values of a tensor, its shape and dtype."""
    digest = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=16)
    if tensor.numel():
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def read_checkpoint(
    path: Path, name: str, registry: Registry, *, allow_pickle: bool = False, allow_torchscript: bool = False
) -> Checkpoint:
    """The state in a file or folder. `name` is what it is called in messages; CheckpointError as `load_state_dict`."""
    before = _stamp(path)
    try:
        with allowing(pickle=allow_pickle, torchscript=allow_torchscript) as allowed:
            loaded, reader = open_checkpoint(path, registry=registry)
            state = find_state(loaded, name)
    except CheckpointError as error:
        if str(path) != name:
            raise CheckpointError(str(error).replace(str(path), name)) from error
        raise
    except (RecursionError, MemoryError) as error:
        raise CheckpointError(f"{name} cannot be read: {type(error).__name__}: {error}") from error
    if _stamp(path) != before:
        raise CheckpointError(f"{name} was changed while it was read: read it again when it is complete")
    step = find_step(loaded)
    return Checkpoint(state, reader, _number(name) if step is None else step, (*allowed.notes, *_odd(state)))


def _stamp(path: Path) -> list[tuple[int, int]]:
    found = []
    for file in member_files(path):
        try:
            about = os.stat(file)
        except OSError as error:
            raise CheckpointError(f"{file} cannot be opened: {error.strerror or error}") from error
        found.append((about.st_size, about.st_mtime_ns))
    return found


def _number(name: str) -> int | None:
    """The counter that ends the name of the file, else of its folder: "step-10.pt", "checkpoint-500/model.safetensors".

    A number inside a name, or right behind other letters ("resnet18"), says something else.
    """
    for part in reversed(name.replace("\\", "/").split("/")[-2:]):
        stem = re.sub(rf"({'|'.join(map(re.escape, NAMED))})+$", "", part, flags=re.IGNORECASE)
        found = _COUNTER.search(stem)
        if found is not None and len(found[1]) < 19:
            return int(found[1])
    return None


def _odd(state: Mapping[str, Tensor]) -> list[str]:
    notes = []
    bad = [name for name, t in state.items() if t.is_floating_point() and t.element_size() > 1 and not _finite(t)]
    if bad:
        notes.append(f"{len(bad)} tensors hold NaN or infinity (the first is {bad[0]})")
    kinds = sorted({str(t.dtype).removeprefix("torch.") for n, t in state.items() if "num_batches" not in n})
    if kinds and kinds != ["float32"]:
        notes.append(f"stored as {', '.join(kinds)}")
    return notes


def _finite(tensor: Tensor) -> bool:
    # A sum is finite unless something in it is not, or it overflows: then look at each.
    return bool(torch.isfinite(tensor.sum(dtype=torch.float64))) or bool(torch.isfinite(tensor).all())
