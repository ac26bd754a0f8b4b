"""Elements that are added up at places that integers name: index_add, scatter_add, folding of patches and frames."""

from __future__ import annotations

from typing import Any

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST, ZERO, Operand
from deepstruct.structure.operators import Identity
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal, flag_tensor

rules = RuleSet()

Table = Signal | torch.Tensor


def accumulate(b: Builder, base: Table, values: Table, places: torch.Tensor, *, additive: bool = True) -> Signal:
    """`base` with `values` joined to it at flat positions `places` (-1: dropped).

    Where nothing meets anything else this is a renaming; else there is one unit per element of the base.

    Args:
        base, values: signals, or index maps of constants.
        places: int64, of the shape of the values.
        additive: whether elements that meet are added (otherwise a maximum, a product, ...).
    """
    before, shape, old_flags = _parts(base)
    moved, _, new_flags = _parts(values)
    at = places.reshape(-1)
    arrives = (moved >= 0) & (at >= 0)
    count = torch.bincount(at[arrives], minlength=before.numel()) + (before >= 0)
    constant = before == CONST
    constant[at[(moved == CONST) & (at >= 0)]] = True
    empty = torch.where(constant, CONST, ZERO)
    if before.numel() == 0 or int(count.max()) <= 1:
        index = torch.where(before >= 0, before, empty)
        flags = old_flags & (before >= 0)
        index[at[arrives]] = moved[arrives]
        flags[at[arrives]] = new_flags[arrives]
        return Signal(index.view(shape), flags.view(shape) if bool(flags.any()) else False)
    space = b.space(shape, "sum" if additive else "merge", additive=additive)
    old = before >= 0
    for index, where, flags in (
        (before[old], old.nonzero().reshape(-1), old_flags[old]),
        (moved[arrives], at[arrives], new_flags[arrives]),
    ):
        if index.numel():
            target = Operand.indexed(where + space.offset)
            b.add(Identity(Operand.indexed(index), target, ~flags if additive else False))
    live = (count > 0).view(shape)
    out = b.signal(space, live)
    return Signal(torch.where(live, out.index, empty.view(shape)))


def _parts(table: Table) -> tuple[torch.Tensor, tuple[int, ...], torch.Tensor]:
    """Flat index map, shape, and flat flags of what is no longer linear."""
    if isinstance(table, Signal):
        return table.index.reshape(-1), table.shape, flag_tensor(table.nonlinear, table.shape).reshape(-1).clone()
    flat = table.reshape(-1)
    return flat, tuple(table.shape), torch.zeros(flat.shape, dtype=torch.bool)


def _without(base: Table, places: torch.Tensor) -> Table:
    """The base where nothing arrives; zero where something does."""
    hit = torch.zeros(base.shape, dtype=torch.bool)
    hit.view(-1)[places.reshape(-1)] = True
    return base.filled(hit, ZERO) if isinstance(base, Signal) else base.masked_fill(hit, ZERO)


def _positions(shape: tuple[int, ...]) -> torch.Tensor:
    numel = 1
    for n in shape:
        numel *= n
    return torch.arange(numel).view(shape)


def _expanded(table: Table, shape: Any) -> Table:
    return table.mapped(lambda t: t.expand(shape)) if isinstance(table, Signal) else table.expand(shape)


@rules.op("index_add")
def index_add(b: Builder, node: Node) -> Signal:
    """Slices added at the given indices of one axis."""
    base, dim, index, source = node.args[:4]
    if node.kwargs.get("alpha", 1) == 0:
        return _as_signal(base.table())
    places = _positions(base.shape)
    places = places.reshape(1) if not base.shape else places
    places = places.index_select(dim, index.tensor().reshape(-1))
    return accumulate(b, base.table(), _expanded(source.table(), places.shape), places)


@rules.op("scatter_add", "scatter_reduce")
def scatter_add(b: Builder, node: Node) -> Signal:
    """Elements added (or joined otherwise) at the indices along one axis."""
    base, dim, index, source = node.args[:4]
    how = node.arg(4, "reduce", "sum")
    places = _positions(base.shape).gather(dim, index.tensor())
    values = source.table()
    inside = tuple(slice(0, n) for n in index.shape)
    values = values.mapped(lambda t: t[inside]) if isinstance(values, Signal) else values[inside]
    start = base.table()
    if not node.kwargs.get("include_self", True):
        start = _without(start, places)
    return accumulate(b, start, values, places, additive=how in ("sum", "mean"))


@rules.op("index_reduce")
def index_reduce(b: Builder, node: Node) -> Signal:
    """Slices joined with those at the given indices of one axis: a product, mean, maximum or minimum."""
    base, dim, index, source, how = node.args[:5]
    places = _positions(base.shape)
    places = places.reshape(1) if not base.shape else places
    places = places.index_select(dim, index.tensor().reshape(-1))
    start = base.table()
    if not node.arg(5, "include_self", True):
        start = _without(start, places)
    return accumulate(b, start, _expanded(source.table(), places.shape), places, additive=how == "mean")


@rules.op("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(b: Builder, node: Node) -> Any:
    """Elements written, or added, at the positions that index tensors name."""
    base, indices, values = node.args[:3]
    if not node.arg(3, "accumulate", False):
        from deepstruct.structure.rules.reindex import move

        return move(b, node)
    at = [i.tensor() if isinstance(i, Arg) else None for i in indices]
    places = torch.ops.aten.index(_positions(base.shape), at)
    return accumulate(b, base.table(), _expanded(values.table(), places.shape), places)


@rules.op("index_fill")
def index_fill(b: Builder, node: Node) -> Signal:
    """A constant, or one unit, written at the given indices of one axis."""
    x, dim, index, value = node.args[:4]
    hit = torch.zeros(x.shape, dtype=torch.bool).index_fill(dim, index.tensor(), True)
    if not isinstance(value, Arg):
        return _as_signal(x.table()).filled(hit, ZERO if value == 0 else CONST)
    return b.reindex(lambda old, new: torch.where(hit, new, old), [x.table(), value.table()])[0]


@rules.op("col2im")
def fold(b: Builder, node: Node) -> Signal:
    """Patches added up where they overlap; what falls into the padding is dropped."""
    (x,) = node.signals()
    assert node.out[0] is not None
    shape = node.out[0].shape
    single = (1, *shape) if len(shape) == 3 else shape
    numbers = _positions(single).to(torch.float64) + 1  # the padding is filled with 0
    places = torch.ops.aten.im2col(numbers, *node.args[2:6]).to(torch.int64) - 1
    zeros = torch.full(shape, ZERO, dtype=torch.int64)
    return accumulate(b, zeros, x, places.reshape(x.shape))


@rules.op("unfold_backward")
def overlap_add(b: Builder, node: Node) -> Signal:
    """Frames along one axis added up where they overlap, as the inverse of a short-time Fourier transform does."""
    x, shape, dim, size, step = node.args[:5]
    places = _positions(tuple(shape)).unfold(dim, size, step)
    return accumulate(b, torch.full(tuple(shape), ZERO, dtype=torch.int64), x.table(), places)


@rules.op("segment_reduce")
def segment_reduce(b: Builder, node: Node) -> Any:
    """A sum, mean, product, maximum or minimum of each stretch along the first axis."""
    x, lengths, offsets, axis = node.args[0], node.arg(2, "lengths"), node.arg(4, "offsets"), node.arg(5, "axis", 0)
    known = lengths if lengths is not None else offsets
    assert node.out[0] is not None
    if axis != 0 or known is None or len(known.shape) != 1:
        return NotImplemented
    shape, counts = node.out[0].shape, known.tensor() if known is lengths else known.tensor().diff()
    owner = torch.arange(counts.numel()).repeat_interleave(counts)
    rows = owner.view(-1, *(1,) * (len(shape) - 1)).expand(x.shape)
    places = _positions(shape).gather(0, rows)
    zeros = torch.full(shape, ZERO, dtype=torch.int64)
    return accumulate(b, zeros, x.table(), places, additive=node.arg(1, "reduce") in ("sum", "mean"))


def _as_signal(table: Table) -> Signal:
    return table if isinstance(table, Signal) else Signal(table)
