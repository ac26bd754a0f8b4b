"""A quantised linear layer has the graph of a linear layer with the weights that the codes stand for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deepstruct.structure.node import Arg
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.rules import Rule

if TYPE_CHECKING:
    from deepstruct.structure.builder import Builder
    from deepstruct.structure.node import Node


def is_quantised(module: nn.Module) -> bool:
    """Whether a linear layer holds its weight as a tensor of torchao that stands for real numbers."""
    base = getattr(sys.modules.get("torchao.utils"), "TorchAOBaseTensor", ())
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and isinstance(weight, base) and hasattr(weight, "dequantize")


def rule_for(module: nn.Module) -> Rule | None:
    """The rule for a linear layer with quantised weights; None for all else."""
    return Rule(type(module), quantised_linear, kind="module") if is_quantised(module) else None


def quantised_linear(builder: Builder, node: Node) -> Any:
    """One product with the weights that the codes stand for; a code for zero is no edge.

    Activations that are quantised on the way are the same units: rounding and scaling are one-to-one, and
    the scale, which is found from the activations, is control.
    """
    x = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(x, Arg) or x.signal is None:
        return NotImplemented
    module = node.module
    with torch.no_grad():
        weight = module.weight.dequantize()
    return builder.matmul(x.signal, WeightRef(("quantised", id(module.weight)), weight.T), bias=module.bias is not None)
