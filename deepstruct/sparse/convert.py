"""From masked layers to sparse ones and back, exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.masked import MaskedLinearLayer


def compress(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Every MaskedLinearLayer as a SparseLinear with the same connections, weights and bias.

    Weights under a mask are not stored, and thus lost. Returns a new model, or the same one if `inplace`
    (except where the model itself is such a layer). Raises InputError for NaN weights, and for layers that
    share a weight: their copies would drift apart.
    """
    return _replace(model, MaskedLinearLayer, _to_sparse, inplace)


def densify(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Every SparseLinear as a MaskedLinearLayer with the same connections, weights and bias.

    Weights without a connection are zero. Returns a new model, or the same one if `inplace`.
    """
    return _replace(model, SparseLinear, _to_masked, inplace)


def _to_sparse(layer: MaskedLinearLayer) -> SparseLinear:
    if layer._masks_as_params:
        raise InputError("the mask of this layer is still being learned: compress layers with a fixed mask")
    new = SparseLinear.from_dense(layer.weight, layer.mask, layer.bias)
    new.values.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None:
        new.bias.requires_grad_(layer.bias.requires_grad)
    return new.train(layer.training)


def _to_masked(layer: SparseLinear) -> MaskedLinearLayer:
    new = MaskedLinearLayer(layer.in_features, layer.out_features, layer.bias is not None)
    new.to(layer.values.device, layer.values.dtype)
    with torch.no_grad():
        new.weight.copy_(layer.to_dense())
        new.mask = layer.mask()
        if layer.bias is not None:
            new.bias.copy_(layer.bias)
    new.weight.requires_grad_(layer.values.requires_grad)
    if layer.bias is not None:
        new.bias.requires_grad_(layer.bias.requires_grad)
    return new.train(layer.training)


def _replace(model: nn.Module, kind: type, convert: Callable, inplace: bool) -> nn.Module:
    model = model if inplace else copy.deepcopy(model)
    layers = [module for module in model.modules() if type(module) is kind]
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in layers:
        if any(owners[id(parameter)] > 1 for parameter in layer.parameters()):
            raise InputError("a parameter of a layer is shared with another module: untie them first")
    return put_in_place(model, {id(layer): convert(layer) for layer in layers})


def put_in_place(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """The model with other modules in the places of some, given by `id`; a new one where it is replaced itself."""
    if id(model) in new:
        return new[id(model)]
    for module in list(model.modules()):
        # Not named_children, which leaves out repetitions: one layer may sit in several places.
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in new:
                module._modules[name] = new[id(child)]
    return model
