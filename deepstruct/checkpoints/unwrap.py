"""Finding a model's state in what a checkpoint file holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from deepstruct.checkpoints.guards import check_tensors
from deepstruct.errors import CheckpointError

WRAPPERS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "state",
    "params", "model_weights", "checkpoint", "ema", "teacher", "student", "encoder", "generator",
)  # fmt: skip
"""Keys under which training scripts keep the model's state, in the order in which they are tried."""

ASIDE = ("optim", "scheduler", "scaler", "lr_sched", "amp", "rng", "callbacks", "loops", "hyper_parameters", "args",
         "config", "metrics", "history")  # fmt: skip
"""What stands beside the model in a checkpoint, by how its key begins: never looked into."""

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""

STEPS = ("global_step", "step", "iteration", "iter", "epoch")
"""Keys of a counter, in the order in which they are asked."""

_OPTIMIZERS = frozenset({"optim", "optimizer", "optimizers", "optimizer_state", "lr_scheduler", "scheduler"})
"""First parts of flat names (of distributed checkpoints) that belong to no model."""

_DEPTH = 4


def find_state(loaded: Any, source: str) -> dict[str, Tensor]:
    """The model's state among what a file holds; optimizer state and the like are left aside.

    Raises CheckpointError, with the keys that are there, when there is none.
    """
    state = _find(loaded, 0)
    if state is None:
        raise CheckpointError(f"{source} holds no model state: {_describe(loaded)}")
    check_tensors(state, source)
    return state


def find_step(loaded: Any) -> int | None:
    """The step or epoch that a checkpoint says it is of."""
    if isinstance(loaded, Mapping):
        for key in STEPS:
            value = loaded.get(key)
            if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**62:
                return value
    return None


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
        if masked and state[f"{base}_mask"].shape != value.shape:
            raise CheckpointError(
                f"the mask {base}_mask is {tuple(state[f'{base}_mask'].shape)} where {key} is {tuple(value.shape)}"
            )
        result[base if masked else key] = value * state[f"{base}_mask"] if masked else value
    return result


def _find(loaded: Any, depth: int) -> dict[str, Tensor] | None:
    """Tensors by name: those of a flat mapping, or of the first wrapper that has some, or of nested modules."""
    if isinstance(loaded, torch.nn.Module):
        loaded = loaded.state_dict()
    if not isinstance(loaded, Mapping) or depth > _DEPTH:
        return None
    if loaded and all(isinstance(key, str) for key in loaded):
        tensors = {key: value.detach() for key, value in loaded.items() if isinstance(value, Tensor)}
        # Extra state of modules (version counters and the like) may stand between the tensors.
        if tensors and not any(isinstance(value, Mapping) for value in loaded.values()):
            return {k: v for k, v in tensors.items() if k.partition(".")[0] not in _OPTIMIZERS} or tensors
    for key in WRAPPERS:
        if key in loaded:
            state = _find(loaded[key], depth + 1)
            if state is not None:
                return state
    return _parts(loaded) if depth <= 1 else None


def _parts(loaded: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """Several modules side by side ({"encoder": {...}, "decoder": {...}}), under joined names."""
    found: dict[str, Tensor] = {}
    for key, value in loaded.items():
        if isinstance(key, str) and isinstance(value, Mapping) and not key.lower().startswith(ASIDE):
            found.update({f"{key}.{name}": tensor for name, tensor in _named(value, 0)})
    return found or None


def _named(table: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in table.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            yield key, value.detach()
        elif isinstance(value, Mapping) and depth < _DEPTH and not key.lower().startswith(ASIDE):
            yield from ((f"{key}.{name}", tensor) for name, tensor in _named(value, depth + 1))


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        keys = [f"{str(key)[:60]!r}: {type(value).__name__}" for key, value in list(loaded.items())[:8]]
        more = ", ..." if len(loaded) > 8 else ""
        return f"its keys are {', '.join(keys)}{more}" if keys else "it is empty"
    if isinstance(loaded, torch.Tensor):
        return f"it is a single tensor of shape {tuple(loaded.shape)}"
    return f"it is an object of type {type(loaded).__name__}"
