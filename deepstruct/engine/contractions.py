"""Contractions whose source is 1 everywhere: sums over the stored weights say it all, no edge is walked.

The edges into an output of a convolution run through the taps that are inside the input there. So A 1 at channel c
and position p is the sum over the taps k of S[c, k] M[k, p], with S the weights summed over the other channels and
M[k, p] whether tap k is inside at p, axis by axis: a reading of the weights, and a product with small tables.
"""

from __future__ import annotations

import numpy as np
import torch

from deepstruct.engine.semirings_words import popcount
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul, alive
from deepstruct.structure.operators.contraction import Contraction, Live


def of_ones(op: EdgeOperator, *, transpose: bool = False, magnitudes: bool = False) -> torch.Tensor | None:
    """A 1 (A' 1 when transposed) as float64, of the shape of the operator's target (source); counts are exact.

    Args:
        magnitudes: sums of |w| instead of numbers of edges.

    None for operators that are no contraction with stored weights at hand.
    """
    if not isinstance(op, Contraction) or op.live is None or op.source.numel == 0 or op.target.numel == 0:
        return None
    if isinstance(op, Conv):
        table = _by_channel(op.live, magnitudes, first=op.transposed == transpose)
        return _by_position(op, table, transpose).expand((op.source if transpose else op.target).shape)
    if isinstance(op, Matmul):
        table = _by_channel(op.live, magnitudes, first=op.outer_first != transpose)
        return table[:, 0].expand((op.source if transpose else op.target).shape)
    return None


def of_any(op: EdgeOperator, *, transpose: bool = False) -> torch.Tensor | None:
    """Where A 1 (A' 1 when transposed) is not zero: boolean, to be broadcast to the operator's target (source).

    Without the channels where these agree, and a single value where all do. None as in `of_ones`.
    """
    if not isinstance(op, Conv | Matmul) or op.live is None or op.source.numel == 0 or op.target.numel == 0:
        return None
    if isinstance(op, Conv):
        table = _by_channel(op.live, False, first=op.transposed == transpose) > 0
        alike = bool((table == table[:1]).all())
        found = _by_position(op, (table[:1] if alike else table).to(torch.float64), transpose) > 0
    else:
        found = _by_channel(op.live, False, first=op.outer_first != transpose)[:, 0] > 0
    return torch.ones((), dtype=torch.bool) if bool(found.all()) else found


def _by_channel(live: Live, magnitudes: bool, first: bool) -> torch.Tensor:
    """float64 (channels, taps): the sums over all that a row, or a column of a group, is joined with."""
    rows, columns = live.magnitudes if magnitudes else (live.by_row, live.by_column)
    return (rows if first else columns.flatten(0, 1)).to(torch.float64)


def _by_position(op: Conv, table: torch.Tensor, transpose: bool) -> torch.Tensor:
    """From sums by channel and tap to sums by channel and position."""
    side = op.source if transpose else op.target
    out = table.reshape(-1, *op.kernel)
    for axis, (size, triples) in enumerate(zip(op.kernel, op.taps, strict=True)):
        tap, target, source = triples
        inside = torch.zeros(size, side.shape[2 + axis], dtype=torch.float64)
        inside[tap, source if transpose else target] = 1  # a tap joins a position with one other at most
        out = torch.tensordot(out, inside, ([1], [0]))  # the next axis is in front again
    return out


def used_number(op: EdgeOperator, ends: tuple[torch.Tensor, torch.Tensor] | None = None) -> int | None:
    """How many stored weights of an operator have an edge, without a tensor of their shape.

    Args:
        ends: boolean source and target elements; only edges between those that are marked count. None for all.

    None where the sums over the weights do not say.
    """
    live = op.live if isinstance(op, Contraction) else None
    if live is None or 0 in live.tensor.stride() or op.source.numel == 0:
        return None
    if isinstance(op, Conv) and ends is None:
        return int(live.by_column.sum((0, 1))[op.tap_counts.reshape(-1) > 0].sum())
    if not isinstance(op, Matmul):
        return None
    if ends is None:
        return live.total
    if op.source.numel != op.inner:  # several rows
        return None
    source, target = (marks.reshape(-1) for marks in ends)
    return _between(live, *((target, source) if op.outer_first else (source, target)))


def _between(live: Live, first: torch.Tensor, second: torch.Tensor) -> int:
    """Weights that are edges between the marked rows and the marked columns (boolean) of a matrix."""
    if live.dense:
        return int(first.sum()) * int(second.sum())
    if live.bits is None:
        return int(alive(live.tensor[first][:, second], live.threshold).sum())
    marks = np.zeros(64 * live.bits.shape[1], np.uint8)
    marks[: live.second] = second.numpy()
    mask = np.packbits(marks, bitorder="little").view(np.int64)
    return int(popcount(torch.from_numpy(live.bits[first.numpy()].view(np.int64) & mask)).sum())
