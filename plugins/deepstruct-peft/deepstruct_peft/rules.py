"""An adapted layer is one linear map: the graph of a model is that of the merged model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from deepstruct.structure.node import Arg
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.rules import Rule
from deepstruct_peft.adapters import adapts_weight, base_of, effective_weight, is_adapted

if TYPE_CHECKING:
    from deepstruct.structure.builder import Builder
    from deepstruct.structure.node import Node

VIEW = "DEEPSTRUCT_PEFT"
"""Environment variable: "merged" (what holds without it) or "branches" (the operations inside, as they run)."""


def rule_for(module: nn.Module) -> Rule | None:
    """The rule for an adapted Linear or convolution; None for all else, which is read by its operations."""
    if not is_adapted(module) or os.environ.get(VIEW, "merged") == "branches" or not adapts_weight(module):
        return None
    base = base_of(module)
    if isinstance(base, nn.Linear):
        return Rule(type(module), adapted_linear, kind="module")
    if base.padding_mode != "zeros" or isinstance(base.padding, str):
        return None
    return Rule(type(module), adapted_convolution, kind="module")


def adapted_linear(builder: Builder, node: Node) -> Any:
    """One product with the effective weight. Batches that mix adapters are read by their operations."""
    x = _input(node)
    if x is None:
        return NotImplemented
    ref = WeightRef(("peft", id(node.module)), effective_weight(node.module).T)
    return builder.matmul(x, ref, bias=base_of(node.module).bias is not None)


def adapted_convolution(builder: Builder, node: Node) -> Any:
    """One convolution with the effective kernel."""
    x, base = _input(node), base_of(node.module)
    if x is None or node.out[0] is None:
        return NotImplemented
    rank, shape = len(base.kernel_size), node.out[0].shape
    if len(x.shape) == rank + 1:  # without a batch axis
        x, shape = x.mapped(lambda t: t.unsqueeze(0)), (1, *shape)
    ref = WeightRef(("peft", id(node.module)), effective_weight(node.module))
    out = builder.conv(
        x, ref, shape, bias=base.bias is not None, stride=base.stride, padding=base.padding,
        dilation=base.dilation, transposed=False, output_padding=(0,) * rank, groups=base.groups,
    )  # fmt: skip
    return out.mapped(lambda t: t.reshape(node.out[0].shape))


def _input(node: Node) -> Any:
    if node.kwargs.get("adapter_names") is not None:
        return None
    x = node.args[0] if node.args else node.kwargs.get("x")
    return x.signal if isinstance(x, Arg) else None
