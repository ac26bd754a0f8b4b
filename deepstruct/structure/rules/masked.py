"""Our own masked and sparse layers: a connection is an edge where it exists, however it is computed."""

from __future__ import annotations

from typing import Any

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


def _input(node: Node) -> Signal | None:
    x = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return x.signal if isinstance(x, Arg) else None


def _existing(module: Any) -> WeightRef:
    """The whole weight, zero where a connection is masked; layers that share it share the key."""
    with torch.no_grad():
        weight = module.weight.detach() * module.mask.to(module.weight.dtype)
    return WeightRef(("masked", id(module.weight)), weight)


@rules.module("deepstruct.sparse.masked:MaskedLinearLayer")
def masked_linear(b: Builder, node: Node) -> Any:
    """A linear layer with a mask."""
    x = _input(node)
    if x is None:
        return NotImplemented
    ref = _existing(node.module)
    ref = ref._replace(tensor=ref.tensor.T)
    return b.matmul(x, ref, bias=node.module.bias is not None)


@rules.module("deepstruct.sparse.linear:SparseLinear")
def sparse_linear(b: Builder, node: Node) -> Any:
    """A linear layer that stores its existing connections only."""
    x = _input(node)
    if x is None:
        return NotImplemented
    with torch.no_grad():
        weight = node.module.to_dense().detach()
    return b.matmul(x, WeightRef(("sparse", id(node.module.values)), weight.T), bias=node.module.bias is not None)


@rules.module("deepstruct.sparse.conv:MaskedConv1d", "deepstruct.sparse.conv:MaskedConv2d")
def masked_convolution(b: Builder, node: Node) -> Any:
    """A convolution with a mask; one that pads by copies is read from the operations inside."""
    x, module = _input(node), node.module
    if x is None or module.padding_mode != "zeros" or isinstance(module.padding, str) or node.out[0] is None:
        return NotImplemented
    rank = len(module.kernel_size)
    shape = node.out[0].shape
    if len(x.shape) == rank + 1:  # without a batch axis
        x, shape = x.mapped(lambda t: t.unsqueeze(0)), (1, *shape)
    out = b.conv(
        x, _existing(module), shape, bias=module.bias is not None, stride=module.stride, padding=module.padding,
        dilation=module.dilation, transposed=False, output_padding=(0,) * rank, groups=module.groups,
    )  # fmt: skip
    target = node.out[0].shape
    return out.mapped(lambda t: t.reshape(target))
