"""4-cycles within one operator, from Gram matrices of its stored weights."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import torch

from deepstruct.engine import budget
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul
from deepstruct.structure.operators.base import alive

_GRAM_BYTES = 1 << 30  # of the largest Gram matrix of one operator
_ROWS = 1 << 24  # entries of a piece of a matrix product


def operator_butterflies(graph: StructureGraph, op: EdgeOperator) -> int | None:
    """4-cycles of two source and two target units through one operator; None where its form is not known.

    Exact at any size: the units that two units of a convolution share depend on their channels, their
    distance and how near the border they are alone, so one small Gram matrix per such class counts them all.
    """
    if not (_plain(op.source) and _plain(op.target)) or any(graph.meets_dead_slots(op)):
        return None
    if isinstance(op, Conv):
        return _conv(op)
    if isinstance(op, Matmul) and op.weight is not None:
        tensor = op.weight.tensor
        if tensor.is_meta:
            tensor = torch.ones(tensor.shape, dtype=torch.bool)
        live = alive(tensor, op.threshold)
        if live.dim() == 2:
            return op.source.numel // max(op.inner, 1) * _matrix(live)
        blocks = live.expand(*op.source.shape[:-2], op.inner, op.outer).reshape(-1, op.inner, op.outer)
        return op.source.shape[-2] * sum(map(_matrix, blocks))
    return None


def _plain(operand: Operand) -> bool:
    """Whether every element is a unit of its own."""
    if operand.table is None:
        return operand.injective
    return operand.complete and operand.table.unique().numel() == operand.table.numel()


def _matrix(live: torch.Tensor) -> int:
    """Pairs of rows times pairs of columns that are joined all four ways."""
    if bool(live.all()):
        rows, columns = live.shape
        return rows * (rows - 1) // 2 * (columns * (columns - 1) // 2)
    live = live.to(torch.float32)
    live = live if live.shape[0] <= live.shape[1] else live.T
    total = 0
    step = max(1, _ROWS // max(live.shape[0], 1))
    for start in range(0, live.shape[0], step):
        budget.check()
        shared = live[start : start + step] @ live.T
        total += _pairs(shared) - _pairs(shared.diagonal(start))
    return total // 2


def _pairs(shared: torch.Tensor) -> int:
    """sum of C(n, 2) over whole numbers below 2**24, as an exact integer."""
    wide = shared.to(torch.float64)
    wide = wide * (wide - 1) / 2
    if wide.dim() < 2:
        return int(wide.sum())
    return int(wide.flatten(0, -2).sum(-1).to(torch.int64).sum())


def _conv(op: Conv) -> int | None:
    tensor = op.weight.tensor
    live = torch.ones(tensor.shape, dtype=torch.bool) if tensor.is_meta else alive(tensor, op.threshold)
    groups, taps = op.groups, op.kernel
    # (group, written, read, *taps): a transposed kernel is stored by what it reads
    live = live.unflatten(0, (groups, live.shape[0] // groups))
    live = live.transpose(1, 2) if op.transposed else live
    by_source = live.shape[2] <= live.shape[1]
    mine = live.transpose(1, 2) if by_source else live  # (group, this side, other side, *taps)
    channels, number = mine.shape[1], 1
    for k in taps:
        number *= k
    if 4 * groups * (channels * number) ** 2 > _GRAM_BYTES:
        return None
    rows = mine.to(torch.float32).movedim(2, 1).flatten(2)  # (group, other side, this side * taps)
    gram = rows.transpose(1, 2) @ rows
    gram = gram.reshape(groups, channels, *taps, channels, *taps)
    tables = [_meetings(table, by_source) for table in op.taps]
    return op.source.shape[0] * (sum(_classes(gram, tables, 1, True)) // 2)


Meetings = Counter[tuple[frozenset[tuple[int, int]], bool]]


def _meetings(table: torch.Tensor, by_source: bool) -> Meetings:
    """How many ordered pairs of positions along one axis meet on the other side through the same pairs of taps.

    Args:
        table: (tap, output position, input position) triples of the axis.

    Returns:
        counts by (pairs of taps, whether the two positions are one).
    """
    at: dict[int, list[tuple[int, int]]] = {}
    for tap, out, here in table.T.tolist():
        own, other = (here, out) if by_source else (out, here)
        at.setdefault(other, []).append((own, tap))
    pairs: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for reads in at.values():
        for (a, k), (b, m) in itertools.product(reads, repeat=2):
            pairs.setdefault((a, b), []).append((k, m))
    return Counter((frozenset(found), a == b) for (a, b), found in pairs.items())


def _classes(gram: torch.Tensor, tables: list[Meetings], times: int, same: bool) -> Iterator[int]:
    """For each class of position pairs: its number of pairs times the sum of C(shared, 2) over channel pairs.

    Args:
        gram: (group, channel, *taps, channel, *taps) for the axes that are left.
    """
    if not tables:
        budget.check()
        total = _pairs(gram)
        if same:  # a unit with itself is no pair
            total -= _pairs(gram.diagonal(dim1=1, dim2=2))
        yield times * total
        return
    second = 2 + len(tables) + 1  # the axis of the second tap
    for (taps, equal), count in tables[0].items():
        part = sum(gram.select(second, m).select(2, k) for k, m in sorted(taps))
        assert isinstance(part, torch.Tensor)
        yield from _classes(part, tables[1:], times * count, same and equal)
