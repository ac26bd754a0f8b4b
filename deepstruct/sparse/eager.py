"""The sparse linear layer in eager mode: what `torch.ops.deepstruct.sparse_linear` computes, with less around it.

An autograd formula that is registered with an op passes every call through Python helpers that sort its arguments
into tensors and others. For a small layer they take longer than the kernels do, so that eager mode goes by an
autograd function; compilers and whoever calls the op itself see the op and its registered formula.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepstruct.sparse import ops


class EagerProduct(torch.autograd.Function):
    """y = x W' + b of (batch, in) inputs; arguments as those of the op, in its order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, rows: int, *structure: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, values, *structure)
        return ops.product(x, values, bias, structure, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, values, *structure = ctx.saved_tensors
        need_x, need_values, need_bias = ctx.needs_input_grad[:3]
        grad_x = grad_values = None
        if need_x or need_values:
            grad_x, grad_values = ops.gradients(grad, x, values, structure, need_x, need_values)
        grad_bias = grad.sum(0) if need_bias else None
        return grad_x, grad_values, grad_bias, None, *[None] * len(structure)
