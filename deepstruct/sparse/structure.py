"""What an op needs to know of a sparse matrix: its layout, and that of its transpose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepstruct.errors import CapacityError
from deepstruct.sparse import ops  # noqa: F401  (defines torch.ops.deepstruct)
from deepstruct.sparse.layout import MAX_VALUES, block_for


class Structure(NamedTuple):
    """The tensors that `torch.ops.deepstruct.sparse_linear` takes, in its order (see `layout`)."""

    table: Tensor
    row_ids: Tensor
    columns: Tensor
    twin_table: Tensor
    twin_row_ids: Tensor
    twin_columns: Tensor
    twin_order: Tensor


def build_structure(rows: Tensor, cols: Tensor, shape: tuple[int, int]) -> tuple[Structure, Tensor]:
    """Structure of a matrix with non-zeros at (rows[k], cols[k]), int64, sorted by row, then by column.

    The second result is `order`, int64: value k of the structure is entry order[k] of the coordinates.
    """
    if len(rows) > MAX_VALUES or max(shape) > MAX_VALUES:
        raise CapacityError(f"a sparse matrix has at most {MAX_VALUES} rows, columns and values: got {shape}")
    block = block_for(len(rows) / max(shape[0] * shape[1], 1))
    build = torch.ops.deepstruct.build_layout
    table, row_ids, columns, order = build(_starts(rows, shape[0]), cols.contiguous(), shape[1], block)
    by_column = torch.argsort(cols, stable=True)
    twin_table, twin_row_ids, twin_columns, twin = build(
        _starts(cols, shape[1]), rows[by_column].contiguous(), shape[0], block
    )
    order = order.to(torch.int64)
    slot = torch.empty(len(order), dtype=torch.int32, device=rows.device)
    slot[order] = torch.arange(len(order), dtype=torch.int32, device=rows.device)
    twin_order = slot[by_column[twin.to(torch.int64)]]
    return Structure(table, row_ids, columns, twin_table, twin_row_ids, twin_columns, twin_order), order


def of_mask(mask: Tensor) -> tuple[Structure, Tensor]:
    """Structure of a boolean (rows, cols) mask, and the flat index into it of every value, int64."""
    rows, cols = mask.nonzero(as_tuple=True)
    structure, order = build_structure(rows, cols, (mask.shape[0], mask.shape[1]))
    return structure, (rows * mask.shape[1] + cols)[order]


def _starts(rows: Tensor, n: int) -> Tensor:
    counts = torch.bincount(rows, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
