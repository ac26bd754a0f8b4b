"""`torch.ops.deepstruct.*`: schemas, fake kernels and autograd of the sparse linear layer and of recurrent cells.

The schemas live here. Every device has the PyTorch reference; the compiled extension puts its own kernels in
front of it for the CPU. The structure travels as tensors (see `layout`), so that nothing here holds state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepstruct.sparse import cuda, extension, recurrent_reference, reference

_STRUCTURE = (
    "Tensor table, Tensor row_ids, Tensor columns, "
    "Tensor twin_table, Tensor twin_row_ids, Tensor twin_columns, Tensor twin_order"
)

_library = torch.library.Library("deepstruct", "DEF")
_library.define(f"sparse_linear(Tensor x, Tensor values, Tensor? bias, {_STRUCTURE}, int rows) -> Tensor")
_library.define(
    f"sparse_linear_backward(Tensor grad, Tensor x, Tensor values, {_STRUCTURE}, "
    "bool need_x, bool need_values) -> (Tensor, Tensor)"
)
_library.define(
    "build_layout(Tensor starts, Tensor indices, int cols, int block) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define("read_support(Tensor weight, Tensor table, Tensor row_ids, Tensor columns) -> Tensor")
_library.define(
    "write_support(Tensor values, Tensor table, Tensor row_ids, Tensor columns, Tensor(a!) weight) -> ()"
)
# Feature-major: x (cols, batch), out (rows, batch), grad (rows, batch), rows of 64, 128, 192 or 256 bytes; both add.
_library.define(
    "sparse_product_(Tensor x, Tensor values, Tensor table, Tensor row_ids, Tensor columns, Tensor(a!) out) -> ()"
)
_library.define(
    "sparse_support_(Tensor grad, Tensor x, Tensor table, Tensor row_ids, Tensor columns, "
    "Tensor(a!) grad_values) -> ()"
)
for _name in (
    "sparse_linear", "sparse_linear_backward", "build_layout", "read_support", "write_support", "sparse_product_",
    "sparse_support_",
):  # fmt: skip
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
# One step of a recurrent cell, feature-major; rows of gradients of gates may lie apart (see `recurrent_cells`).
_library.define("lstm_forward_(Tensor(a!) gates, Tensor c, Tensor(b!) new_h, Tensor(c!) new_c) -> ()")
_library.define(
    "lstm_backward_(Tensor gates, Tensor c, Tensor new_c, Tensor(a!) grad_h, Tensor(b!) grad_c, "
    "Tensor(c!) grad_gates) -> ()"
)
_library.define("gru_forward_(Tensor(a!) gates, Tensor extra, Tensor h, Tensor(b!) new_h) -> ()")
_library.define(
    "gru_backward_(Tensor gates, Tensor extra, Tensor h, Tensor(a!) grad_h, Tensor(b!) grad_gates, "
    "Tensor(c!) grad_extra) -> ()"
)
for _name in ("lstm_forward_", "lstm_backward_", "gru_forward_", "gru_backward_"):
    _library.impl(_name, getattr(recurrent_reference, _name), "CompositeExplicitAutograd")
    torch.library.register_fake(f"deepstruct::{_name}", lambda *tensors: None, lib=_library)
for _name in ("sparse_linear", "sparse_linear_backward"):
    _library.impl(_name, cuda.chosen(_name, getattr(reference, _name)), "CUDA")
extension.load()
cuda.load()


@torch.library.register_fake("deepstruct::sparse_linear", lib=_library)
def _(x: Tensor, values: Tensor, bias: Tensor | None, *structure: Any) -> Tensor:
    return x.new_empty((x.shape[0], structure[-1]))


@torch.library.register_fake("deepstruct::sparse_linear_backward", lib=_library)
def _(grad: Tensor, x: Tensor, values: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    need_x, need_values = rest[-2:]
    return x.new_empty(x.shape if need_x else (0,)), values.new_empty(values.shape if need_values else (0,))


@torch.library.register_fake("deepstruct::read_support", lib=_library)
def _(weight: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor) -> Tensor:
    return weight.new_empty(columns.shape)


@torch.library.register_fake("deepstruct::write_support", lib=_library)
def _(values: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, weight: Tensor) -> None:
    return None


@torch.library.register_fake("deepstruct::sparse_product_", lib=_library)
def _(x: Tensor, values: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, out: Tensor) -> None:
    return None


@torch.library.register_fake("deepstruct::sparse_support_", lib=_library)
def _(grad: Tensor, x: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, grad_values: Tensor) -> None:
    return None


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, values, bias, *structure, _rows = inputs
    ctx.save_for_backward(x, values, *structure)
    ctx.has_bias = bias is not None


def product(
    x: Tensor, values: Tensor, bias: Tensor | None, structure: Sequence[Tensor], rows: int
) -> Tensor:
    """What the op computes, with no gradient of its own: for autograd functions, which give theirs."""
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.deepstruct.sparse_linear.default(x, values, bias, *structure, rows)


def gradients(
    grad: Tensor, x: Tensor, values: Tensor, structure: Sequence[Tensor], need_x: bool, need_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    """grad_x (batch, cols) and grad_values (nnz), or None; differentiable where gradients are being recorded."""
    backward = torch.ops.deepstruct.sparse_linear_backward.default
    if torch.is_grad_enabled():
        found = backward(grad, x, values, *structure, need_x, need_values)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            found = backward(grad, x, values, *structure, need_x, need_values)
    return found[0] if need_x else None, found[1] if need_values else None


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, values, *structure = ctx.saved_tensors
    need_x, need_values, need_bias = ctx.needs_input_grad[:3]
    grad_x = grad_values = grad_bias = None
    if need_x or need_values:
        grad_x, grad_values = gradients(grad, x, values, structure, need_x, need_values)
    if need_bias and ctx.has_bias:
        grad_bias = grad.sum(0)
    return grad_x, grad_values, grad_bias, *[None] * 8


torch.library.register_autograd("deepstruct::sparse_linear", _backward, setup_context=_setup, lib=_library)


def _setup_twice(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.need_x, ctx.need_values = inputs
    ctx.save_for_backward(*tensors)


def _backward_twice(ctx: Any, grad_grad_x: Tensor | None, grad_grad_values: Tensor | None) -> tuple[Any, ...]:
    """Both results are bilinear, so their gradients are the same two products with other operands."""
    grad, x, values, *structure = ctx.saved_tensors
    forward, backward = torch.ops.deepstruct.sparse_linear, torch.ops.deepstruct.sparse_linear_backward
    of_grad = of_x = of_values = None
    if ctx.need_x and grad_grad_x is not None:
        of_grad = forward(grad_grad_x, values, None, *structure, grad.shape[1])
        of_values = backward(grad, grad_grad_x, values, *structure, False, True)[1]
    if ctx.need_values and grad_grad_values is not None:
        more = forward(x, grad_grad_values, None, *structure, grad.shape[1])
        of_grad = more if of_grad is None else of_grad + more
        of_x = backward(grad, x, grad_grad_values, *structure, True, False)[0]
    return of_grad, of_x, of_values, *[None] * 9


torch.library.register_autograd(
    "deepstruct::sparse_linear_backward", _backward_twice, setup_context=_setup_twice, lib=_library
)
