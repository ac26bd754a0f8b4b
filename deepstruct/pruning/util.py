"""Helpers on masked layers by the names of earlier versions."""

from __future__ import annotations

import torch
from torch import nn

from deepstruct.sparse.masked import MaskedLayer, maskable_layers


def _layers(module: nn.Module) -> list[MaskedLayer]:
    return [module] if isinstance(module, MaskedLayer) else list(maskable_layers(module))


def set_random_saliency(model: nn.Module) -> None:
    """Uniform random saliencies, 0 where a weight is masked."""
    for layer in _layers(model):
        layer.saliency = torch.rand_like(layer.weight) * layer.mask


def set_random_masks(module: nn.Module) -> None:
    """Every connection with probability 1/2."""
    for layer in _layers(module):
        layer.mask = torch.rand_like(layer.weight) < 0.5


def set_distributed_saliency(module: nn.Module) -> None:
    """Magnitudes in units of their layer's standard deviation, so that layers compare."""
    for layer in _layers(module):
        weight = layer.weight.detach()
        layer.saliency = weight.abs() / weight.std()


def reset_pruned_network(module: nn.Module) -> None:
    """New weights under the same masks."""
    for layer in _layers(module):
        layer.reset_parameters(keep_mask=True)


def keep_input_layerwise(module: nn.Module) -> None:
    """Let every masked layer remember its last input."""
    for layer in _layers(module):
        layer.keep_layer_input = True


def get_network_weight_count(module: nn.Module) -> int:
    """How many connections exist in all masked layers."""
    return sum(int(layer.get_weight_count()) for layer in _layers(module))
