"""From a file to a state dict, and from a state dict into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deepstruct.checkpoints.readers import HEAD_BYTES
from deepstruct.checkpoints.unwrap import find_state, fold_masks, strip_prefixes
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
    path = Path(path)
    registry = get_host().registry() if registry is None else registry
    reader = find_reader(path, registry)
    if reader is None:
        raise CheckpointError(
            f"{path} is not a checkpoint that any reader knows ({_names(registry.readers)})"
        )
    try:
        loaded = reader.open(path)
    except DeepstructError:
        raise
    except Exception as error:  # a reader of a plugin: say whose it is
        provider = registry.provider_of(reader) or "unknown"
        raise CheckpointError(
            f"{path}: reader {reader.name!r} ({provider}) failed: {type(error).__name__}: {error}"
        ) from error
    return find_state(loaded, str(path))


def find_reader(path: Path, registry: Registry) -> Reader | None:
    """The reader that is surest of the file, or None; among equals the first, plugins before ours."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror or error}") from error
    best, best_score = None, 0
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


def load_weights(
    model: nn.Module, weights: PathLike | Mapping[str, Tensor], *, registry: Registry | None = None
) -> None:
    """Load a checkpoint file, or a state dict, into a model: all of it or nothing.

    Prefixes of DataParallel and torch.compile are taken off, and masks of torch.nn.utils.prune are
    multiplied in, where the model has none. Raises CheckpointError naming the first keys or shapes
    that differ.
    """
    if isinstance(weights, Mapping):
        source, state = "the state dict", dict(weights)
    else:
        source, state = str(weights), load_state_dict(weights, registry=registry)
    expected = model.state_dict()
    if set(state) != set(expected):
        state = strip_prefixes(state)
    if not any(key.endswith("_orig") for key in expected):
        state = fold_masks(state)
    problems = _differences(state, expected)
    if problems:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {'; '.join(problems)}")
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(f"{source} does not fit {type(model).__name__}: {error}") from error


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Any]) -> list[str]:
    missing = [key for key in expected if key not in state and isinstance(expected[key], Tensor)]
    extra = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)} where the model has {tuple(expected[key].shape)}"
        for key in expected
        if key in state and isinstance(expected[key], Tensor) and state[key].shape != expected[key].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if extra:
        problems.append(f"{len(extra)} unexpected ({_first(extra)})")
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({_first(shapes)})")
    return problems


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _names(readers: Sequence[Reader]) -> str:
    return "readers: " + (", ".join(reader.name for reader in readers) or "none")
