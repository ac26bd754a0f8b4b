"""Masks into zeros: the plain model that a masked one stands for, and state dicts with its keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from deepstruct.errors import CheckpointError
from deepstruct.pruning.gradients import LayerGradient
from deepstruct.pruning.parametrization import original_of, unmask_parameter, weight_masks
from deepstruct.pruning.recurrent_targets import MASKS
from deepstruct.recurrent import BaseRecurrentLayer
from deepstruct.sparse.conv import MaskedConv1d, MaskedConv2d
from deepstruct.sparse.convert import put_in_place
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.masked import MaskedLayer, MaskedLinearLayer

_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    MaskedLinearLayer: nn.Linear, MaskedConv1d: nn.Conv1d, MaskedConv2d: nn.Conv2d,
}  # fmt: skip


def bake(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The plain model: masked weights are zeros, masked and sparse layers are those of torch, state-dict keys dense.

    Masks of torch.nn.utils.prune are made permanent, too. Tied weights stay tied; outputs are the same.
    Parametrizations of other kinds, and masked layers that torch has no twin of, stay as they are; masked recurrent
    layers stay, with zeros in place of their masks.

    Returns a copy, or the model itself with `inplace` (unless it is such a layer).
    """
    if not inplace:
        _make_copyable(model)
        model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, _ in list(weight_masks(module)):
            unmask_parameter(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
        if isinstance(module, BaseRecurrentLayer):
            _unmask_recurrent(module)
    shared: dict[int, nn.Parameter] = {}
    new = {
        id(module): _plain(module, shared)
        for module in list(model.modules())
        if isinstance(module, (SparseLinear, *_PLAIN))
    }
    return put_in_place(model, new)


def _unmask_recurrent(layer: BaseRecurrentLayer) -> None:
    with torch.no_grad():
        for name, mask in MASKS.items():
            getattr(layer, name).mul_(getattr(layer, mask))
            getattr(layer, mask).fill_(True)
    layer.gradients = None


def _make_copyable(model: nn.Module) -> None:
    """Products that torch.nn.utils.prune left from the last forward pass are no leaves: copies refuse those."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                setattr(module, hook._tensor_name, getattr(module, hook._tensor_name).detach())


def _plain(layer: Any, shared: dict[int, nn.Parameter]) -> nn.Module:
    new: Any
    if isinstance(layer, SparseLinear):
        new = nn.Linear(layer.in_features, layer.out_features, False, device="meta")
        new.weight = nn.Parameter(layer.to_dense().detach().clone(), layer.values.requires_grad)
        new.register_parameter("bias", layer.bias)
        return _dressed(new, layer)
    kind = next((plain for masked, plain in _PLAIN.items() if isinstance(layer, masked)), None)
    assert kind is not None
    new = object.__new__(kind)
    nn.Module.__init__(new)
    if kind is nn.Linear:
        names: tuple[str, ...] = ("in_features", "out_features")
    else:
        names = (*nn.Conv2d.__constants__, "_reversed_padding_repeated_twice")
    for name in names:
        setattr(new, name, getattr(layer, name))
    if id(layer.weight) not in shared:
        with torch.no_grad():
            layer.weight.copy_(torch.where(layer.mask, layer.weight, 0))
        shared[id(layer.weight)] = layer.weight
    new.weight = layer.weight
    new.register_parameter("bias", layer.bias)
    return _dressed(new, layer)


def _dressed(new: nn.Module, layer: nn.Module) -> nn.Module:
    """What users hung on the layer stays on it."""
    new._forward_hooks, new._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks
    for key, hook in list(new._forward_hooks.items()):
        if isinstance(getattr(hook, "__self__", None), LayerGradient):
            del new._forward_hooks[key]
    return new.train(layer.training)


def dense_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain model, zeros where weights are masked and no masks; the model is left as it is."""
    plain = bake(model)
    masks = _mask_keys(plain)
    return {key: value for key, value in plain.state_dict().items() if key not in masks}


def _mask_keys(model: nn.Module) -> set[str]:
    """Keys of the masks of masked layers."""
    found = set()
    for path, module in model.named_modules(remove_duplicate=False):
        names = _mask_names(module)
        found |= {f"{path}.{name}" if path else name for name in names}
    return found


def _mask_names(module: nn.Module) -> list[str]:
    if isinstance(module, BaseRecurrentLayer):
        return list(MASKS.values())
    return ["_mask"] if isinstance(module, MaskedLayer) else []


def load_dense(model: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> None:
    """Load a state dict with the keys of the plain model into a masked one; masks stay and hide what they hide.

    Raises CheckpointError for keys that are missing or unexpected (unless not `strict`) and for other shapes, before
    anything has changed.
    """
    slots, masks = _slots(model), _mask_keys(model)
    problems = []
    state = {key: value for key, value in state.items() if key not in masks}
    for key, value in state.items():
        if key not in slots:
            problems += [f"unexpected {key!r}"] if strict else []
        elif tuple(value.shape) != tuple(_shape(slots[key])):
            problems.append(f"{key!r} is of shape {tuple(value.shape)}, the model's is {tuple(_shape(slots[key]))}")
    if strict:
        problems += [f"missing {key!r}" for key in slots if key not in state]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"the state dict does not fit {type(model).__name__}: {'; '.join(problems[:5])}{more}")
    with torch.no_grad():
        for key, slot in slots.items():
            if key not in state:
                continue
            if isinstance(slot, SparseLinear):
                slot.values.copy_(state[key].to(slot.values)[slot.indices().unbind()])
            else:
                tensor, mask = slot
                value = state[key].to(tensor)
                tensor.copy_(value if mask is None else torch.where(mask, value, 0))


def _shape(slot: Any) -> tuple[int, ...]:
    return (slot.out_features, slot.in_features) if isinstance(slot, SparseLinear) else tuple(slot[0].shape)


def _slots(model: nn.Module) -> dict[str, Any]:
    """Dense key -> (tensor, mask or None), or the SparseLinear that holds it."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, parametrize.ParametrizationList) or ".parametrizations." in f".{path}.":
            continue
        start = f"{path}." if path else ""
        if isinstance(module, SparseLinear):
            found[f"{start}weight"] = module
            if module.bias is not None:
                found[f"{start}bias"] = (module.bias, None)
            continue
        for name, own in weight_masks(module):
            found[start + name] = (original_of(module, name), own.mask)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None or name in module._non_persistent_buffers_set:
                continue
            if name in _mask_names(module):
                continue
            mask = module.mask if isinstance(module, MaskedLayer) and name == "weight" else None
            if isinstance(module, BaseRecurrentLayer) and name in MASKS:
                mask = getattr(module, MASKS[name])
            found[start + name] = (tensor, mask)
    return found
