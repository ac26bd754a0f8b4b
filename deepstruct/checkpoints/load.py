"""From a file to a state dict, and from a state dict into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deepstruct.checkpoints.match import match_state, tied
from deepstruct.checkpoints.readers import HEAD_BYTES
from deepstruct.checkpoints.unwrap import find_state
from deepstruct.errors import CheckpointError, DeepstructError
from deepstruct.plugin import Registry, get_host

if TYPE_CHECKING:
    from deepstruct.checkpoints.readers import Reader

PathLike = str | os.PathLike[str]


def load_state_dict(path: PathLike, *, registry: Registry | None = None) -> dict[str, Tensor]:
    """The tensors of the model that a checkpoint file holds, on the CPU, by name.

    The reader that is surest of the file opens it (see the hook `deepstruct_checkpoint_readers`). A
    state inside `state_dict`, `model`, `model_state` and the like is found; optimizer state is left
    aside.

    Raises CheckpointError when the file is missing, unknown, damaged, holds no model state, or would
    run code when loaded (the message names what it wanted).
    """
    return find_state(open_checkpoint(Path(path), registry=registry)[0], str(path))


def open_checkpoint(path: Path, *, registry: Registry | None = None) -> tuple[Any, str]:
    """What a checkpoint file or folder holds, as it was saved, and the name of the reader that opened it.

    Errors as for `load_state_dict`; whatever else a reader raises becomes a CheckpointError that names it.
    """
    registry = get_host().registry() if registry is None else registry
    reader = find_reader(path, registry)
    if reader is None:
        raise CheckpointError(f"{path} is not a checkpoint that any reader knows ({_names(registry.readers)})")
    try:
        return reader.open(path), reader.name
    except DeepstructError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a reader of a plugin: say whose it is
        provider = registry.provider_of(reader) or "unknown"
        raise CheckpointError(
            f"{path}: reader {reader.name!r} ({provider}) failed: {type(error).__name__}: {error}"
        ) from error


def find_reader(path: Path, registry: Registry, *, least: int = 1) -> Reader | None:
    """The reader that is surest of the file, or None when none scores `least`; among equals the first."""
    try:
        head = b"" if path.is_dir() else _head(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror or error}") from error
    best, best_score = None, least - 1
    for reader in registry.readers:
        try:
            score = int(reader.probe(path, head))
        except Exception as error:
            raise CheckpointError(
                f"{path}: reader {reader.name!r} ({registry.provider_of(reader)}) failed to look at it: "
                f"{type(error).__name__}: {error}"
            ) from error
        if score > best_score:
            best, best_score = reader, score
    return best


def _head(path: Path) -> bytes:
    if not path.is_file() and path.exists():  # opening a pipe or a device would wait, or do harm
        raise OSError(0, "it is neither a file nor a folder")
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def load_weights(
    model: nn.Module, weights: PathLike | Mapping[str, Tensor], *, registry: Registry | None = None
) -> None:
    """Load a checkpoint file, or a state dict, into a model: all of it or nothing.

    Prefixes of DataParallel, torch.compile and Lightning are taken off, and masks of torch.nn.utils.prune are
    multiplied in, where the model has none. Raises CheckpointError naming the first keys or shapes
    that differ.
    """
    if isinstance(weights, Mapping):
        source, state = "the state dict", dict(weights)
    else:
        source, state = str(weights), load_state_dict(weights, registry=registry)
    expected = model.state_dict()
    found = match_state(state, expected, source, type(model).__name__, tied(model)).state
    try:
        model.load_state_dict({**expected, **found})
    except Exception as error:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {error}") from error


def _names(readers: Sequence[Reader]) -> str:
    return "readers: " + (", ".join(reader.name for reader in readers) or "none")
