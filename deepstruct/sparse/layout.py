"""The structure of a sparse matrix as tensors: panels of rows, blocks of columns, rows sorted by their count.

The format is that of the compiled kernels, and this module is its definition: what is built here with
torch operations is, entry by entry, what the extension builds.

A matrix of shape (rows, cols) is cut into panels of 512 rows and blocks of `block` columns. In a tile (one
panel, one block) the rows that have non-zeros are ordered by their number of non-zeros, then by index.
Three tensors describe all tiles, panel by panel:

- `table`, int32: 8 numbers (version, rows, cols, 512, block, panels, blocks, runs), then the starts of each
  tile's runs, rows and values (tiles + 1 numbers each), then the runs: (count, n) says that the next n rows
  have `count` non-zeros each.
- `row_ids`, int32: the row within its panel, for each row of each tile.
- `columns`: the column within its block, for each value; uint8 where blocks have up to 256 columns, else int16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepstruct.errors import InputError

VERSION = 1
PANEL = 512
HEADER = 8
NARROW = 256
WIDEST = 32768
MAX_VALUES = 2**31 - 1


class Layout(NamedTuple):
    """The three tensors, and `order`: value k is entry order[k] of the coordinates it was built from."""

    table: Tensor
    row_ids: Tensor
    columns: Tensor
    order: Tensor


def block_for(density: float) -> int:
    """Columns in a block: wide ones where rows are short, so that a row's work outweighs its overhead.

    Up to 256 columns of 64 samples stay near the first cache; where even those leave a row but a few values,
    2,048 columns, in the second cache, cost less.
    """
    if density < 0.02:
        return 2048
    return NARROW if density < 0.06 else 128


def dtype_for(block: int) -> torch.dtype:
    """The numbers that columns within a block of `block` are."""
    return torch.uint8 if block <= NARROW else torch.int16


def build_reference(rows: Tensor, cols: Tensor, shape: tuple[int, int], block: int) -> Layout:
    """The layout of non-zeros at (rows[k], cols[k]), int64, sorted by row and then by column."""
    n_rows, n_cols = shape
    device = rows.device
    panels, blocks = -(-n_rows // PANEL), -(-n_cols // block)
    tiles = panels * blocks
    # A line is one row within one tile.
    line = ((rows // PANEL) * blocks + cols // block) * PANEL + rows % PANEL
    lines, count = torch.unique(line, return_counts=True)
    by_count = torch.argsort((lines // PANEL) * (block + 1) + count, stable=True)
    lines, count = lines[by_count], count[by_count]
    place = torch.empty(max(tiles, 1) * PANEL, dtype=torch.int64, device=device)
    place[lines] = torch.arange(len(lines), device=device)
    order = torch.argsort(place[line], stable=True)
    runs, n = torch.unique_consecutive(torch.stack([lines // PANEL, count]), dim=1, return_counts=True)
    header = torch.tensor(
        [VERSION, n_rows, n_cols, PANEL, block, panels, blocks, runs.shape[1]], device=device
    )
    starts = [
        _starts(runs[0], tiles),
        _starts(lines // PANEL, tiles),
        _starts(line[order] // PANEL, tiles),
    ]
    table = torch.cat([header, *starts, torch.stack([runs[1], n], dim=1).flatten()])
    return Layout(
        table.to(torch.int32),
        (lines % PANEL).to(torch.int32),
        (cols[order] % block).to(dtype_for(block)),
        order.to(torch.int32),
    )


def _starts(tile: Tensor, tiles: int) -> Tensor:
    counts = torch.bincount(tile, minlength=tiles) if tiles else tile.new_zeros(0)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def coordinates(table: Tensor, row_ids: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (int64) of every value of a layout, in the order of its values."""
    header = table[:HEADER].tolist()
    block, blocks, tiles = header[4], header[6], header[5] * header[6]
    wide = table.to(torch.int64)
    starts = wide[HEADER : HEADER + 3 * (tiles + 1)].view(3, tiles + 1)
    runs = wide[HEADER + 3 * (tiles + 1) :].view(-1, 2)
    tile_of_row = torch.repeat_interleave(torch.arange(tiles, device=table.device), starts[1].diff())
    count = torch.repeat_interleave(runs[:, 0], runs[:, 1])
    row = torch.repeat_interleave(tile_of_row // max(blocks, 1) * PANEL + row_ids.to(torch.int64), count)
    left = torch.repeat_interleave(tile_of_row % max(blocks, 1) * block, count)
    return row, left + columns.to(torch.int64)


def shape_of(table: Tensor) -> tuple[int, int]:
    """Rows and columns of the matrix that a table describes."""
    rows, cols = table[1:3].tolist()
    return rows, cols


def check(table: Tensor, row_ids: Tensor, columns: Tensor) -> None:
    """Raise InputError unless the tensors are exactly the layout of the coordinates that they describe.

    The kernels trust their structure, so whatever comes from outside (a checkpoint, say) passes here.
    """
    _check_kind("table", table, torch.int32)
    _check_kind("row_ids", row_ids, torch.int32)
    if len(table) < HEADER + 3 or int(table[0]) != VERSION or min(table[:HEADER].tolist()) < 0:
        raise InputError(f"the structure's table is none of version {VERSION}: was the file damaged?")
    block = int(table[4])
    _check_kind("columns", columns, dtype_for(block))
    try:
        if not 1 <= block <= WIDEST:
            raise ValueError(f"blocks of {block} columns")
        rows, cols = coordinates(table, row_ids, columns)
        if len(rows) != len(columns):
            raise ValueError(f"{len(rows)} values in the table, {len(columns)} columns")
        shape = shape_of(table)
        order = torch.argsort(rows * max(shape[1], 1) + cols)
        rows, cols = rows[order], cols[order]
        inside = not len(rows) or (
            int(rows.min()) >= 0
            and int(rows.max()) < shape[0]
            and 0 <= int(cols.min()) < shape[1] > int(cols.max())
        )
        if not inside or bool(((rows.diff() == 0) & (cols.diff() == 0)).any()):
            raise ValueError("entries out of range, or double")
        again = build_reference(rows, cols, shape, block)
        if not all(torch.equal(a, b) for a, b in zip(again[:3], (table, row_ids, columns), strict=True)):
            raise ValueError("tiles that are out of order")
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"the structure tensors do not fit together ({error}): was the file damaged?"
        ) from error


def _check_kind(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.dim() != 1:
        raise InputError(
            f"the structure's {name} is {tensor.dtype} with {tensor.dim()} axes, expected {dtype} with 1"
        )
