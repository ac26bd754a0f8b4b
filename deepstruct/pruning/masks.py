"""Masks on their own: read, set, saved beside a checkpoint and loaded again; to torch's pruning and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from deepstruct.errors import CheckpointError, InputError
from deepstruct.pruning.bake import bake
from deepstruct.pruning.finding import find_targets
from deepstruct.pruning.optimizers import as_list
from deepstruct.pruning.parametrization import mask_parameter
from deepstruct.sparse.checks import check_mask

_FORMAT = "deepstruct masks 1"
Optimizer = torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None


def get_masks(model: nn.Module) -> dict[str, Tensor]:
    """Name of each weight that can be pruned -> its boolean mask (copies); tied weights once."""
    return {name: target.mask() for name, target in find_targets(model).items()}


def set_masks(
    model: nn.Module, masks: Mapping[str, Tensor], optimizer: Optimizer = None, *, unknown_state: str = "raise"
) -> None:
    """Give weights these masks, and follow the state rule in the optimizers. Weights not named keep theirs.

    Raises InputError for unknown names, shapes and types before anything has changed.
    """
    targets, optimizers = find_targets(model), as_list(optimizer)
    for name, mask in masks.items():
        if name not in targets:
            raise InputError(f"no weight is called {name!r}: there are {', '.join(list(targets)[:12])}")
        if not isinstance(mask, Tensor):
            raise InputError(f"the mask of {name!r} is a {type(mask).__name__}, not a tensor")
        try:
            check_mask(mask.to(targets[name].device), targets[name].shape, targets[name].device)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        targets[name].check(optimizers, unknown_state)
    for name, mask in masks.items():
        targets[name].commit(mask.to(targets[name].device), optimizers, unknown_state)


def save_masks(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the masks of a model beside its checkpoint: one bit a weight, in a file that holds no code."""
    masks = get_masks(model)
    torch.save(
        {
            "format": _FORMAT,
            "shapes": {name: list(mask.shape) for name, mask in masks.items()},
            "bits": {name: torch.from_numpy(np.packbits(mask.cpu().numpy())) for name, mask in masks.items()},
        },
        path,
    )


def read_masks(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The masks in a file of `save_masks`. Raises CheckpointError when it is none."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {os.fspath(path)!r}") from None
    except Exception as error:
        raise CheckpointError(f"{os.fspath(path)!r} cannot be read as masks: {error}") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise CheckpointError(f"{os.fspath(path)!r} holds no masks (save_masks writes them)")
    out = {}
    for name, shape in found["shapes"].items():
        count, bits = int(np.prod(shape)), found["bits"][name].numpy()
        if len(bits) != (count + 7) // 8:
            raise CheckpointError(f"{os.fspath(path)!r} is damaged: {name!r} has {len(bits)} bytes for {count} weights")
        out[name] = torch.from_numpy(np.unpackbits(bits, count=count).astype(bool)).reshape(shape)
    return out


def load_masks(
    model: nn.Module, path: str | os.PathLike[str], optimizer: Optimizer = None, *, unknown_state: str = "raise"
) -> None:
    """Give a model the masks of a file; see `set_masks` for what is checked."""
    set_masks(model, read_masks(path), optimizer, unknown_state=unknown_state)


def from_torch(model: nn.Module) -> nn.Module:
    """Take the masks of torch.nn.utils.prune over, in place, as masks of ours; the Parameter objects change back.

    Weights under a mask, which torch keeps, become zero. Returns the model.
    """
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                name = hook._tensor_name
                mask = module._buffers[f"{name}_mask"]
                assert mask is not None
                kept = mask.bool()
                prune.remove(module, name)
                mask_parameter(module, name, kept)
    return model


def to_torch(model: nn.Module, inplace: bool = False) -> nn.Module:
    """A model with the same masks as torch.nn.utils.prune keeps them (`weight_orig`, `weight_mask`).

    Masked and sparse layers become those of torch. Returns a copy, or the model itself with `inplace`.
    Raises InputError for masks on recurrent layers, which torch's pruning silently ignores.
    """
    masks: dict[str, Tensor] = {}
    for name, target in find_targets(model).items():
        mask = target.mask()
        if not bool(mask.all()):
            masks[name] = mask
        if not bool(mask.all()) and any(isinstance(m, nn.RNNBase) for m in target.modules):
            raise InputError(f"{name!r} is masked: torch.nn.utils.prune does not work on recurrent layers, bake it")
    model = bake(model, inplace)
    for name, mask in masks.items():
        parameter = dict(model.named_parameters())[name]
        for module in model.modules():
            for own, held in list(module._parameters.items()):
                if held is parameter:
                    prune.custom_from_mask(module, own, mask.to(parameter.dtype))
    return model


__all__ = ["from_torch", "get_masks", "load_masks", "read_masks", "save_masks", "set_masks", "to_torch"]
