"""Which pairs of labels an operator joins, from its weights and taps: the edges are not written down.

Each function yields pairs of labels one by one where they are few (`Pairs`), the stored weights between
labels where every weight joins a pair of its own (`Product`), or rectangles of all pairs (`Full`). Labels
are -1 where there is no node.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from deepstruct.structure.operators import (
    Channels,
    Conv,
    EdgeOperator,
    Identity,
    KeyScores,
    Matmul,
    ScoreOperator,
    ScoreOutputs,
    Separable,
    Slice,
    WeightRef,
)
from deepstruct.structure.operators.base import alive
from deepstruct.structure.orders.labelling import constant_along, distinct, narrowed, narrowed_together

_KINDS = 8  # kinds of rows that are told apart one by one before all rows are sorted


class Pairs(NamedTuple):
    """Label pairs that are joined, and the absolute weight between them (None: structural).

    `unknown` says that the weights have no values; the amounts are 1 then.
    """

    source: torch.Tensor
    target: torch.Tensor
    amount: torch.Tensor | None
    unknown: bool = False


class Full(NamedTuple):
    """Every label of one set is joined to every label of another, structurally."""

    source: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """Stored weights (inner, outer, *taps) between labels: entry (i, o, tap) stands for counts[tap] edges.

    Attributes:
        ref, threshold, dense: the weights, their cut, and whether all of them are known to be edges.
        source, target: labels of inner and outer entries.
        weighted: whether the edges carry weights; otherwise they are structural.
    """

    ref: WeightRef
    threshold: float
    dense: bool
    source: torch.Tensor
    target: torch.Tensor
    counts: torch.Tensor
    weighted: bool = True

    @property
    def unknown(self) -> bool:
        return self.ref.tensor.is_meta

    def empty(self) -> bool:
        """Whether no entry can be an edge, whatever the weights."""
        return self.ref.tensor.numel() == 0 or not bool((self.counts > 0).any())

    def part(self, inner: torch.Tensor, outer: torch.Tensor) -> Product:
        """Some of its inner and outer entries (int64, ascending)."""
        tensor = _some(_some(self.ref.tensor.detach(), 0, inner), 1, outer)
        return Product(
            self.ref._replace(tensor=tensor), self.threshold, self.dense, self.source[inner], self.target[outer],
            self.counts, self.weighted,
        )  # fmt: skip

    def slice(self, rows: torch.Tensor, columns: torch.Tensor) -> Slice:
        """The same weights between numbered channels."""
        return Slice(self.ref, self.threshold, rows, columns, self.counts, self.dense)

    def matrix(self, rows: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """float64 of the given shape: sums of |w| over the edges between numbered labels, 0 where there is none."""
        part = self.slice(rows, columns)
        if not self.weighted:
            live = alive(self.ref.tensor.detach(), self.threshold).to(torch.float32)
            part = Slice(self.ref._replace(tensor=live), 0.0, rows, columns, self.counts)
        inner, outer = self.ref.tensor.shape[:2]
        out = torch.zeros(shape, dtype=torch.float64)
        step = max(1, (1 << 20) // max(self.ref.tensor[:, 0].numel(), 1))
        plain = shape[0] == inner and bool((rows == torch.arange(inner)).all())
        for start in range(0, outer, step):
            here = slice(start, min(start + step, outer))
            amounts = part.amounts(here)
            if shape[0] == 1:
                amounts = amounts.sum(0, keepdim=True)
            elif not plain:
                amounts = torch.zeros(shape[0], amounts.shape[1], dtype=torch.float64).index_add_(0, rows, amounts)
            out.index_add_(1, columns[here], amounts)
        return out


Found = Pairs | Product | Full


def label_pairs(op: EdgeOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    """All pairs of an operator.

    Args:
        source, target: int64 labels in the shapes of the operands; axes along which they are constant may have
            stride 0, which saves the work along them.
    """
    if source.numel() == 0 or target.numel() == 0:
        return
    if isinstance(op, Identity):
        if op.fused is True:
            return
        kept = op.kept()
        if kept is not None:
            source = source.masked_fill(~kept, -1)
        yield from _elementwise(source, target)
    elif isinstance(op, ScoreOperator):
        yield from _scored(op, source, target)
    elif isinstance(op, Channels):
        yield from _channels(op, source, target)
    elif isinstance(op, Matmul):
        yield from _mix(op, source, target) if op.weight is None else _matmul(op, source, target)
    elif isinstance(op, Conv):
        yield from _conv(op, source, target)
    elif isinstance(op, Separable):
        yield from _separable(op, source, target)
    else:
        yield from _explicit(op, source, target)


def _elementwise(source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    source, target = narrowed_together(*torch.broadcast_tensors(source, target))
    for axis in range(source.dim()):
        a, b = source.narrow(axis, 0, 1), target.narrow(axis, 0, 1)
        if source.shape[axis] > 1 and bool((source == a).all()) and bool((target == b).all()):
            source, target = a, b
    a, b = source.reshape(-1), target.reshape(-1)
    keep = (a >= 0) & (b >= 0)
    yield from _joined(a[keep], b[keep], None)


# -- products of two activations, and windows: constant labels on one side are carried across


def _mix(op: Matmul, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    everywhere = op.pattern is None
    across = _across(op, source, target, [source.dim() - 1], everywhere)
    if across is not None:
        yield from across
        return
    pattern = op.pattern
    batched = pattern is not None and pattern.dim() > 2
    if pattern is not None and batched:
        pattern = pattern.expand(*source.shape[:-2], *pattern.shape[-2:])
    for place, rows_in, rows_out in _batches(source, target, batched):
        for a, c, times in _kinds_of_rows(rows_in, rows_out):
            if pattern is None:
                yield Full(distinct(a[a >= 0]), distinct(c[c >= 0]))
                continue
            here = pattern[place]
            yield _product(op, WeightRef(("pattern",), here.to(torch.float32), False), a, c, times)


def _scored(op: ScoreOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """The label of a score is that of its row carrier where that has one, else that of its column carrier."""
    scores, reads, by_column = op.scores, isinstance(op, ScoreOutputs), isinstance(op, KeyScores)
    carriers, other = (source, target) if reads else (target, source)
    rows, columns = scores.split(carriers)
    rows = torch.where(scores.row_counts > 0, rows, -1)
    columns = torch.where(scores.column_counts > 0, columns, -1)
    labeled_by_column = not bool((rows >= 0).any())
    labels = columns if labeled_by_column else rows
    if labeled_by_column != by_column:  # labels run along the other axis: fine where each head has a single one
        one = labels.amax(-1, keepdim=True)
        if not bool(((labels == one) | (labels < 0)).all()):
            shape = (*scores.lead, scores.rows, scores.columns)
            units = labels.unsqueeze(-2 if labeled_by_column else -1).expand(shape)
            yield from _explicit(op, units, other) if reads else _explicit(op, other, units)
            return
        labels = torch.where((scores.column_counts if by_column else scores.row_counts) > 0, one, -1)
    beside = labels.unsqueeze(-1).expand(other.shape)
    yield from _elementwise(beside, other) if reads else _elementwise(other, beside)


def _across(
    op: EdgeOperator, source: torch.Tensor, target: torch.Tensor, axes: list[int], everywhere: bool
) -> Iterator[Pairs] | None:
    """Pairs where the labels of one side are constant along the axes that the operator mixes; None elsewhere.

    `everywhere` says that each element has an edge, whatever is a unit on the other side.
    """
    for here, there, run in ((source, target, op.forward), (target, source, op.backward)):
        label: torch.Tensor | None = here
        for axis in axes:
            label = None if label is None else constant_along(label, axis)
        if label is None:
            continue
        label = label.expand(there.shape)
        if not everywhere or bool((narrowed(here) < 0).any()):
            label = torch.where(run((here >= 0).to(torch.float32)) > 0.5, label, -1)
        return _elementwise(label, there) if here is source else _elementwise(there, label)
    return None


def _separable(op: Separable, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    axes = [axis for axis, matrix in enumerate(op.axes) if matrix is not None]
    tables = [matrix for matrix in op.axes if matrix is not None]
    everywhere = all(bool(m.any(0).all()) and bool(m.any(1).all()) for m in tables)
    across = _across(op, source, target, axes, everywhere)
    yield from _explicit(op, source, target) if across is None else across


# -- stored weights


def _matmul(op: Matmul, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    """Rows whose labels are equal are one: each kind of row is joined through the matrix once."""
    assert op.weight is not None
    tensor = op.weight.tensor
    batched = tensor.dim() > 2
    if batched:
        tensor = tensor.expand(*source.shape[:-2], *tensor.shape[-2:])
    for place, rows_in, rows_out in _batches(source, target, batched):
        ref = op.weight._replace(tensor=tensor[place])
        spread = _spread_rows(op, ref, rows_in, rows_out)
        if spread is not None:
            yield from spread
            continue
        for a, c, times in _kinds_of_rows(rows_in, rows_out):
            yield _product(op, ref, a, c, times)


def _product(op: Matmul, ref: WeightRef, source: torch.Tensor, target: torch.Tensor, times: int) -> Product:
    counts = torch.tensor([float(times)], dtype=torch.float64)
    dense = op.dense and op.weight is not None
    return Product(ref, op.threshold, dense, source, target, counts, op.weighted)


def _batches(
    source: torch.Tensor, target: torch.Tensor, batched: bool
) -> Iterator[tuple[tuple[int, ...], torch.Tensor, torch.Tensor]]:
    """(batch index, labels (..., inner), labels (..., outer)): one batch unless each has a matrix of its own."""
    if not batched:
        yield (), source, target
        return
    for place in itertools.product(*(range(n) for n in source.shape[:-2])):
        yield place, source[place], target[place]


def _kinds_of_rows(rows_in: torch.Tensor, rows_out: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Distinct pairs (labels of a source row, labels of a target row), and how many rows are alike."""
    times = 1
    for axis in range(rows_in.dim() - 1):
        n = rows_in.shape[axis]
        if n <= 1:
            continue
        a, c = rows_in.narrow(axis, 0, 1), rows_out.narrow(axis, 0, 1)
        if _equal_along(rows_in, axis) and _equal_along(rows_out, axis):
            rows_in, rows_out, times = a, c, times * n
    rows_in, rows_out = rows_in.reshape(-1, rows_in.shape[-1]), rows_out.reshape(-1, rows_out.shape[-1])
    for _ in range(_KINDS):
        if rows_in.shape[0] == 0:
            return
        alike = (rows_in == rows_in[:1]).all(1) & (rows_out == rows_out[:1]).all(1)
        yield rows_in[0], rows_out[0], times * int(alike.sum())
        rows_in, rows_out = rows_in[~alike], rows_out[~alike]
    if rows_in.shape[0] == 0:
        return
    both = torch.cat([rows_in, rows_out], 1)
    kinds, counts = torch.unique(both, dim=0, return_counts=True)
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        yield kind[: rows_in.shape[1]], kind[rows_in.shape[1] :], times * count


def _equal_along(labels: torch.Tensor, axis: int) -> bool:
    return labels.stride(axis) == 0 or bool((labels == labels.narrow(axis, 0, 1)).all())


def _spread_rows(
    op: Matmul, ref: WeightRef, rows_in: torch.Tensor, rows_out: torch.Tensor
) -> Iterator[Found] | None:
    """Rows that are one label each, read into the same labels: only the sums of the matrix's columns count.

    So linear layers along the positions of channels do it. None for other rows.
    """
    if any(not _equal_along(rows_out, axis) for axis in range(rows_out.dim() - 1)):
        return None
    if not _equal_along(rows_in, rows_in.dim() - 1) or rows_in.shape[-1] == 0:
        return None
    rows, inverse = torch.unique(rows_in[..., 0].expand(rows_in.shape[:-1]).reshape(-1), return_inverse=True)
    if rows.numel() < 2:
        return None
    times = torch.bincount(inverse, minlength=rows.numel()).to(torch.float64)
    keep = rows >= 0
    one = rows_in.new_zeros(rows_in.shape[-1])
    product = _product(op, ref, one, rows_out.reshape(-1, rows_out.shape[-1])[0], 1)
    return _outer(product, rows[keep], times[keep])


def _outer(product: Product, rows: torch.Tensor, times: torch.Tensor) -> Iterator[Found]:
    """Every row label to every target label, with the column sums times the number of rows."""
    keep = (product.target >= 0).nonzero().reshape(-1)
    product = product.part(torch.arange(product.source.numel()), keep)
    targets, columns = torch.unique(product.target, return_inverse=True)
    if product.empty() or rows.numel() == 0:
        return
    shape = (rows.numel(), targets.numel())
    if product.unknown:
        sums = torch.ones(1, targets.numel(), dtype=torch.float64)
    else:
        sums = product.matrix(torch.zeros_like(product.source), columns, (1, targets.numel()))
    live = (sums != 0).expand(shape)
    row, column = live.nonzero(as_tuple=True)
    amount = sums[0, column] * times[row] if product.weighted else None
    yield Pairs(rows[row], targets[column], amount, product.unknown and product.weighted)


def _conv(op: Conv, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    reading, writing = _per_channel(source), _per_channel(target)
    if reading is None or writing is None:
        yield from _explicit(op, source, target)
        return
    counts = _tap_counts(op, reading[1], writing[1])
    if op.groups > 1:
        yield from _grouped(op, counts, reading[0], writing[0])
        return
    tensor = op.weight.tensor.detach()
    ref = op.weight._replace(tensor=tensor if op.transposed else tensor.transpose(0, 1))
    yield Product(ref, op.threshold, op.dense, reading[0], writing[0], counts.reshape(-1), op.weighted)


def _grouped(op: Conv, counts: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """A grouped convolution, all groups at once; the second axis of its kernel counts within a group."""
    tensor = op.weight.tensor.detach()
    unknown = tensor.is_meta
    if unknown:
        matrix = (counts > 0).any().to(torch.float64).expand(tensor.shape[:2])
    else:
        live = alive(tensor, op.threshold)
        amount = torch.where(live, tensor.abs().to(torch.float64), 0.0)
        # a tap that reads nothing makes no edge, not even of a weight that is infinite or not a number
        matrix = torch.where(counts > 0, amount * counts, 0.0).sum(tuple(range(2, tensor.dim())))
    first, second = matrix.nonzero(as_tuple=True)
    amount = matrix[first, second]
    per_in, per_out = source.numel() // op.groups, target.numel() // op.groups
    if op.transposed:
        s, t = source[first], target[first // per_in * per_out + second]
    else:
        s, t = source[first // per_out * per_in + second], target[first]
    keep = (s >= 0) & (t >= 0)
    for pairs in _joined(s[keep], t[keep], amount[keep] if op.weighted else None):
        yield pairs._replace(unknown=unknown and op.weighted)


def _per_channel(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """One label per channel (axis 1), and where there are units: (batch, 1, *spatial), None for everywhere.

    None where the label or the presence of a unit hangs on the position in some channels only.
    """
    if labels.numel() == 0:
        return None
    small = narrowed(labels)
    flat = small.transpose(0, 1).reshape(small.shape[1], -1)
    label = flat.amax(1)
    units = flat >= 0
    if not bool(((flat == label[:, None]) | ~units).all()):
        return None
    label, units = label.expand(labels.shape[1]), units.expand(labels.shape[1], -1)
    units = units[label >= 0]
    if units.numel() == 0 or bool(units.all()):
        return label, None
    if not bool((units == units[:1]).all()):
        return None
    where = units[0].view(small.shape[0], 1, *small.shape[2:])
    return label, where.expand(labels.shape[0], 1, *labels.shape[2:])


def _tap_counts(op: Conv, reading: torch.Tensor | None, writing: torch.Tensor | None) -> torch.Tensor:
    """Shape of the kernel, float64: how often a tap joins two units of given presence (None: everywhere)."""
    if reading is None and writing is None:
        return op.tap_counts.to(torch.float64) * op.source.shape[0]
    sides = []
    for operand, units in ((op.source, reading), (op.target, writing)):
        shape = (operand.shape[0], 1, *operand.shape[2:])
        sides.append(torch.ones(shape, dtype=torch.float64) if units is None else units.to(torch.float64))
    one = torch.ones(1, 1, *op.kernel, dtype=torch.float64)
    _, counts, _ = torch.ops.aten.convolution_backward(
        sides[1].contiguous(), sides[0].contiguous(), one, None, op.stride, op.padding, op.dilation, op.transposed,
        op.output_padding, 1, [False, True, False],
    )  # fmt: skip
    return counts.round()[0, 0]


def _channels(op: Channels, source: torch.Tensor, target: torch.Tensor) -> Iterator[Found]:
    """Edges of the first order between two layers, or two cells: one label on each side."""
    a, c = narrowed(source).reshape(-1), narrowed(target).reshape(-1)
    if bool((a == a[0]).all()) and bool((c == c[0]).all()):
        if min(int(a[0]), int(c[0])) >= 0 and op.count():
            amount = torch.tensor([1.0 if op.unknown else op.total()], dtype=torch.float64)
            yield Pairs(a[:1], c[:1], amount, op.unknown)
        return
    for pairs in _explicit(op, source, target):
        yield pairs._replace(unknown=op.unknown)


def _explicit(op: EdgeOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """For label patterns without structure: every edge, in pieces."""
    a, c = source.reshape(-1), target.reshape(-1)
    unknown = op.weighted and op.weight is not None and op.weight.tensor.is_meta
    for piece in op.edges():
        s, t = a[piece.source], c[piece.target]
        keep = (s >= 0) & (t >= 0)
        s, t = s[keep], t[keep]
        if s.numel() == 0:
            continue
        for pairs in _joined(s, t, piece.weight[keep].abs() if op.weighted else None):
            yield pairs._replace(unknown=unknown)


def _joined(source: torch.Tensor, target: torch.Tensor, amount: torch.Tensor | None) -> Iterator[Pairs]:
    """Each pair of labels once, its amounts added up."""
    if source.numel() == 0:
        return
    low = int(target.min())
    span, first = int(target.max()) + 1 - low, int(source.min())
    codes = (source - first) * span + (target - low)
    total = None
    if amount is None:
        codes = distinct(codes)
    else:
        codes, inverse = torch.unique(codes, return_inverse=True)
        total = torch.zeros(codes.numel(), dtype=torch.float64)
        total.index_add_(0, inverse, amount.to(torch.float64))
    yield Pairs(codes.div(span, rounding_mode="floor") + first, codes.remainder(span) + low, total)


def _some(tensor: torch.Tensor, axis: int, places: torch.Tensor) -> torch.Tensor:
    """Entries along an axis: a view where they lie side by side."""
    count = places.numel()
    if count == tensor.shape[axis]:
        return tensor
    if count and int(places[-1]) - int(places[0]) == count - 1:
        return tensor.narrow(axis, int(places[0]), count)
    return tensor.index_select(axis, places)
