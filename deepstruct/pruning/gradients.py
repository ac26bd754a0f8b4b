"""Gradients of the whole weight of masked and sparse layers, absent connections included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad as conv_grad

from deepstruct.errors import InputError
from deepstruct.sparse.conv import MaskedConv1d, MaskedConv2d
from deepstruct.sparse.convolution import padded
from deepstruct.sparse.linear import SparseLinear


class LayerGradient:
    """Adds up dL/dW of layers that share a weight, from what went in and the gradient of what came out.

    The layers' own backward passes compute gradients of existing connections only.
    """

    def __init__(self, layers: Sequence[nn.Module], shape: torch.Size) -> None:
        self.layers, self.shape = list(layers), shape
        self.seen: Tensor | None = None
        self._handles: list[Any] = []

    def watch(self, on: bool) -> None:
        """Start anew, or stop; what was seen is forgotten."""
        self.seen = None
        known = (nn.Linear, SparseLinear, MaskedConv1d, MaskedConv2d)
        on = on and all(isinstance(layer, known) for layer in self.layers)
        for handle in self._handles:
            handle.remove()
        self._handles = [layer.register_forward_hook(self._forward) for layer in self.layers] if on else []

    def _forward(self, layer: nn.Module, args: Any, out: Any) -> None:
        if not args:
            raise InputError(f"a {type(layer).__name__} is called without positional arguments: its input is not seen")
        if torch.is_grad_enabled() and out.requires_grad:
            x = args[0].detach()
            out.register_hook(lambda grad: self._add(layer, x, grad.detach()))

    def _add(self, layer: nn.Module, x: Tensor, grad: Tensor) -> None:
        wide = torch.promote_types(grad.dtype, torch.float32)
        x, grad = x.to(wide), grad.to(wide)
        if isinstance(layer, (MaskedConv1d, MaskedConv2d)):
            found = _convolution(layer, x, grad, self.shape)
        else:
            found = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        self.seen = found if self.seen is None else self.seen + found


def _convolution(layer: MaskedConv1d | MaskedConv2d, x: Tensor, grad: Tensor, shape: torch.Size) -> Tensor:
    if x.dim() == layer._axes + 1:
        x, grad = x.unsqueeze(0), grad.unsqueeze(0)
    x, geometry = layer.placed(x)
    x = padded(x, shape[2:], geometry)
    function: Any = conv_grad.conv1d_weight if layer._axes == 1 else conv_grad.conv2d_weight
    out: Tensor = function(
        x, shape, grad, stride=geometry.stride, padding=0, dilation=geometry.dilation, groups=geometry.groups
    )
    return out
