"""The sparse linear layer in plain PyTorch: what the kernels are checked against, and what runs without them.

Matrices are made dense, multiplied, and read on their support: exact, deterministic, as fast as dense layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepstruct.sparse.layout import Layout, build_reference, coordinates, shape_of


def dense_weight(values: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor) -> Tensor:
    """The (rows, cols) matrix that `values` and their structure stand for."""
    weight = values.new_zeros(shape_of(table))
    weight[coordinates(table, row_ids, columns)] = values
    return weight


def sparse_linear(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    table: Tensor,
    row_ids: Tensor,
    columns: Tensor,
    twin_table: Tensor,
    twin_row_ids: Tensor,
    twin_columns: Tensor,
    twin_order: Tensor,
    rows: int,
) -> Tensor:
    return torch.nn.functional.linear(x, dense_weight(values, table, row_ids, columns), bias)


def sparse_linear_backward(
    grad: Tensor,
    x: Tensor,
    values: Tensor,
    table: Tensor,
    row_ids: Tensor,
    columns: Tensor,
    twin_table: Tensor,
    twin_row_ids: Tensor,
    twin_columns: Tensor,
    twin_order: Tensor,
    need_x: bool,
    need_values: bool,
) -> tuple[Tensor, Tensor]:
    """grad_x (batch, cols) and grad_values (nnz); what is not needed is empty."""
    grad_x, grad_values = x.new_empty(0), values.new_empty(0)
    if need_x:
        grad_x = grad @ dense_weight(values, table, row_ids, columns)
    if need_values:
        grad_values = (grad.T @ x)[coordinates(table, row_ids, columns)]
    return grad_x, grad_values


def read_support(weight: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor) -> Tensor:
    """The entries of a dense (rows, cols) weight on the support, in the order of the layout's values."""
    return weight[coordinates(table, row_ids, columns)]


def write_support(values: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, weight: Tensor) -> None:
    """Make a dense (rows, cols) weight hold `values` on the support, and zeros elsewhere."""
    weight.zero_()
    weight[coordinates(table, row_ids, columns)] = values


def sparse_product_(
    x: Tensor, values: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, out: Tensor
) -> None:
    """out (rows, batch) += W x, x (cols, batch)."""
    out.addmm_(dense_weight(values, table, row_ids, columns), x)


def sparse_support_(
    grad: Tensor, x: Tensor, table: Tensor, row_ids: Tensor, columns: Tensor, grad_values: Tensor
) -> None:
    """grad_values += (grad x') on the support, grad (rows, batch) and x (cols, batch)."""
    grad_values.add_((grad @ x.T)[coordinates(table, row_ids, columns)])


def build_layout(starts: Tensor, indices: Tensor, cols: int, block: int) -> Layout:
    """The layout of compressed sparse rows: `starts` (rows + 1) and `indices` (nnz), both int64."""
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=starts.device), starts.diff())
    return build_reference(rows, indices, (len(starts) - 1, cols), block)
