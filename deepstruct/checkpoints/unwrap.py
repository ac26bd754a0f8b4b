"""Finding a model's state in what a checkpoint file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from deepstruct.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights")
"""Keys under which training scripts keep the model's state, in the order in which they are tried."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""


def find_state(loaded: Any, source: str) -> dict[str, Tensor]:
    """The model's state among what a file holds; optimizer state and the like are left aside.

    Raises CheckpointError, with the keys that are there, when there is none.
    """
    state = _find(loaded, 0)
    if state is None:
        raise CheckpointError(f"{source} holds no model state: {_describe(loaded)}")
    return state


def strip_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the prefix that a wrapper put before every key."""
    result = dict(state)
    for _ in range(4):  # wrappers nest; nobody nests them deeper
        prefix = next((p for p in PREFIXES if result and all(key.startswith(p) for key in result)), None)
        if prefix is None:
            return result
        result = {key[len(prefix) :]: value for key, value in result.items()}
    return result


def fold_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with every `x_orig`, `x_mask` of torch.nn.utils.prune replaced by their product `x`."""
    result = {}
    for key, value in state.items():
        base = key.removesuffix("_orig")
        if key.endswith("_mask") and f"{key.removesuffix('_mask')}_orig" in state:
            continue
        masked = base != key and f"{base}_mask" in state
        result[base if masked else key] = value * state[f"{base}_mask"] if masked else value
    return result


def _find(loaded: Any, depth: int) -> dict[str, Tensor] | None:
    if not isinstance(loaded, Mapping) or depth > 4:
        return None
    if loaded and all(isinstance(key, str) for key in loaded):
        tensors = {key: value.detach() for key, value in loaded.items() if isinstance(value, Tensor)}
        # Extra state of modules (version counters and the like) may stand between the tensors.
        if tensors and not any(isinstance(value, Mapping) for value in loaded.values()):
            return tensors
    for key in WRAPPERS:
        if key in loaded:
            state = _find(loaded[key], depth + 1)
            if state is not None:
                return state
    return None


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        keys = [f"{key!r}: {type(value).__name__}" for key, value in list(loaded.items())[:8]]
        more = ", ..." if len(loaded) > 8 else ""
        return f"its keys are {', '.join(keys)}{more}" if keys else "it is empty"
    if isinstance(loaded, torch.Tensor):
        return f"it is a single tensor of shape {tuple(loaded.shape)}"
    return f"it is an object of type {type(loaded).__name__}"
