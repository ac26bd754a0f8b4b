"""Which pairs of labels an operator joins, from its weights and taps: the edges are not written down.

Each function yields (source labels, target labels, amount) pieces, where amount is the sum of |w| over the
edges between the two labels (None on structural edges). Labels are -1 where there is no node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    KeyScores,
    Matmul,
    ScoreOperator,
    ScoreOutputs,
    Separable,
    alive,
)

_AT_ONCE = 1 << 22  # pairs that are written down together: four million take about 150 MB


class Pairs(NamedTuple):
    """Label pairs that are joined, and the absolute weight between them (None: structural)."""

    source: torch.Tensor
    target: torch.Tensor
    amount: torch.Tensor | None


def label_pairs(op: EdgeOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """All pairs of an operator.

    Args:
        source, target: int64 labels in the shapes of the operands.
    """
    if source.numel() == 0 or target.numel() == 0:
        return
    if isinstance(op, Identity):
        kept = op.kept()
        if kept is not None:
            source = source.masked_fill(~kept, -1)
        yield from _elementwise(source, target)
    elif isinstance(op, ScoreOperator):
        yield from _scored(op, source, target)
    elif isinstance(op, Matmul):
        yield from _matmul(op, source, target)
    elif isinstance(op, Conv):
        yield from _conv(op, source, target)
    elif isinstance(op, Separable):
        yield from _separable(op, source, target)
    else:
        yield from _explicit(op, source, target)


def _elementwise(source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    for axis in range(source.dim()):
        a, b = source.narrow(axis, 0, 1), target.narrow(axis, 0, 1)
        if bool((source == a).all()) and bool((target == b).all()):
            source, target = a, b
    flat = torch.stack([source.reshape(-1), target.reshape(-1)])
    flat = flat[:, (flat >= 0).all(0)].unique(dim=1)
    yield Pairs(flat[0], flat[1], None)


def _scored(op: ScoreOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """The label of a score is that of its row carrier where that has one, else that of its column carrier."""
    scores, reads, by_column = op.scores, isinstance(op, ScoreOutputs), isinstance(op, KeyScores)
    carriers, other = (source, target) if reads else (target, source)
    rows, columns = scores.split(carriers)
    rows = torch.where(scores.row_counts > 0, rows, -1)
    columns = torch.where(scores.column_counts > 0, columns, -1)
    labeled_by_column = not bool((rows >= 0).any())
    labels = columns if labeled_by_column else rows
    if labeled_by_column != by_column:
        one = labels.amax(-1, keepdim=True)
        if not bool(((labels == one) | (labels < 0)).all()):
            yield from _across(op, labels, other)
            return
        labels = torch.where((scores.column_counts if by_column else scores.row_counts) > 0, one, -1)
    beside = labels.unsqueeze(-1).expand(other.shape)
    yield from _elementwise(beside, other) if reads else _elementwise(other, beside)


def _across(op: ScoreOperator, labels: torch.Tensor, other: torch.Tensor) -> Iterator[Pairs]:
    """Labels of scores by column against features by row, or the other way round: through the mask."""
    scores, lead = op.scores, op.scores.lead
    matrix = torch.ones(scores.rows, scores.columns, dtype=torch.bool) if scores.mask is None else scores.mask.matrix
    if not isinstance(op, KeyScores):
        matrix = matrix.transpose(-1, -2)
    matrix = matrix.expand(*lead, *matrix.shape[-2:]).reshape(scores.heads, *matrix.shape[-2:])
    features = other.transpose(-1, -2).reshape(scores.heads, other.shape[-1], -1)
    wide = labels.reshape(scores.heads, 1, -1).expand(-1, features.shape[1], -1)
    for here, a, c in zip(matrix, wide, features, strict=True):
        for label, feature, _ in _kinds_of_rows(a, c):
            for pair in _through(here, label, feature, 1, False):
                yield pair if isinstance(op, ScoreOutputs) else Pairs(pair.target, pair.source, None)


def _matmul(op: Matmul, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """Rows whose labels are equal are one: each kind of row is joined through the matrix once."""
    matrix, weighted = _matrix(op)
    batched = matrix is not None and matrix.dim() > 2
    lead = source.shape[:-2] if batched else ()
    if batched:
        assert matrix is not None
        matrix = matrix.expand(*lead, *matrix.shape[-2:])
    for b in range(max(torch.Size(lead).numel(), 1)):
        rows_in = source.reshape(-1, *source.shape[-2:])[b] if batched else source.reshape(-1, source.shape[-1])
        rows_out = target.reshape(-1, *target.shape[-2:])[b] if batched else target.reshape(-1, target.shape[-1])
        here = None if matrix is None else matrix.reshape(-1, *matrix.shape[-2:])[b] if batched else matrix
        for a, c, times in _kinds_of_rows(rows_in, rows_out):
            yield from _through(here, a, c, times, weighted)


def _matrix(op: Matmul) -> tuple[torch.Tensor | None, bool]:
    """|w| of the edges (0 elsewhere), or the 0/1 pattern of a mix; None for all-to-all without weights."""
    if op.weight is None:
        return (None if op.pattern is None else op.pattern), False
    tensor = _values(op.weight.tensor)
    live = alive(tensor, op.threshold)
    if not op.weighted:
        return live, False
    return torch.where(live, tensor.detach().abs().to(torch.float64), 0.0), True


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """The weights, not-a-number where they have no values (meta device): they are edges of unknown weight."""
    return torch.full((), float("nan")).expand(tensor.shape) if tensor.is_meta else tensor


def _kinds_of_rows(rows_in: torch.Tensor, rows_out: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    if rows_in.shape[0] == 0:
        return
    if bool((rows_in == rows_in[:1]).all()) and bool((rows_out == rows_out[:1]).all()):
        yield rows_in[0], rows_out[0], rows_in.shape[0]
        return
    both = torch.cat([rows_in, rows_out], 1)
    kinds, counts = torch.unique(both, dim=0, return_counts=True)
    for kind, count in zip(kinds, counts.tolist(), strict=True):
        yield kind[: rows_in.shape[1]], kind[rows_in.shape[1] :], count


def _through(
    matrix: torch.Tensor | None, source: torch.Tensor, target: torch.Tensor, times: int, weighted: bool
) -> Iterator[Pairs]:
    keep_in, keep_out = source >= 0, target >= 0
    source, target = source[keep_in], target[keep_out]
    if source.numel() == 0 or target.numel() == 0:
        return
    uniform = bool((source == source[0]).all()) and bool((target == target[0]).all())
    if uniform and not weighted and matrix is not None:
        if bool(matrix.any() if bool(keep_in.all()) and bool(keep_out.all()) else matrix[keep_in][:, keep_out].any()):
            yield Pairs(source[:1], target[:1], None)
        return
    if matrix is None:
        a, c = torch.meshgrid(source.unique(), target.unique(), indexing="ij")
        yield Pairs(a.reshape(-1), c.reshape(-1), None)
        return
    matrix = matrix[keep_in][:, keep_out] if not (bool(keep_in.all()) and bool(keep_out.all())) else matrix
    matrix, source = _summed(matrix.to(torch.float64), source, 0)
    matrix, target = _summed(matrix, target, 1)
    rows = max(1, _AT_ONCE // matrix.shape[1])
    for block, labels in zip(matrix.split(rows), source.split(rows), strict=True):
        i, o = block.nonzero(as_tuple=True)
        yield Pairs(labels[i], target[o], block[i, o] * times if weighted else None)


def _summed(matrix: torch.Tensor, labels: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (or columns) of equal labels added up."""
    distinct, inverse = torch.unique(labels, return_inverse=True)
    if distinct.numel() == labels.numel():
        return matrix, labels
    shape = list(matrix.shape)
    shape[axis] = distinct.numel()
    out = torch.zeros(shape, dtype=matrix.dtype)
    out.index_add_(axis, inverse, matrix)
    return out, distinct


def _conv(op: Conv, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    reading, writing = _per_channel(source), _per_channel(target)
    if reading is None or writing is None:
        yield from _explicit(op, source, target)
        return
    a, c = reading[0], writing[0]
    tensor = _values(op.weight.tensor)
    amount = torch.where(alive(tensor, op.threshold), tensor.detach().abs().to(torch.float64), 0.0)
    times = _tap_counts(op, reading[1], writing[1])
    # a tap that reads nothing makes no edge, not even of a weight that is infinite or not a number
    matrix = torch.where(times > 0, amount * times, 0.0).sum(tuple(range(2, tensor.dim())))
    if not op.weighted:
        matrix = (matrix != 0).to(torch.float64)
    if op.groups == 1:
        yield from _through(matrix if op.transposed else matrix.T, a, c, 1, op.weighted)
    else:
        yield from _grouped(op, matrix, a, c)


def _grouped(op: Conv, matrix: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """A grouped convolution, all groups at once; the second axis of its kernel counts within a group."""
    first, second = matrix.nonzero(as_tuple=True)
    amount = matrix[first, second]
    per_in, per_out = source.numel() // op.groups, target.numel() // op.groups
    if op.transposed:
        s, t = source[first], target[first // per_in * per_out + second]
    else:
        s, t = source[first // per_out * per_in + second], target[first]
    keep = (s >= 0) & (t >= 0)
    yield from _joined(s[keep], t[keep], amount[keep] if op.weighted else None)


def _per_channel(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """One label per channel (axis 1), and where there are units: (batch, 1, *spatial), None for everywhere.

    None where the label or the presence of a unit hangs on the position in some channels only.
    """
    if labels.numel() == 0:
        return None
    flat = labels.transpose(0, 1).reshape(labels.shape[1], -1)
    label = flat.amax(1)
    units = flat >= 0
    if not bool(((flat == label[:, None]) | ~units).all()):
        return None
    units = units[label >= 0]
    if units.numel() == 0 or bool(units.all()):
        return label, None
    if not bool((units == units[:1]).all()):
        return None
    return label, units[0].view(labels.shape[0], 1, *labels.shape[2:])


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
        sides[1], sides[0], one, None, op.stride, op.padding, op.dilation, op.transposed, op.output_padding, 1,
        [False, True, False],
    )  # fmt: skip
    return counts.round()[0, 0]


def _separable(op: Separable, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    for axis, matrix in enumerate(op.axes):
        if matrix is None:
            continue
        a, b = source.narrow(axis, 0, 1), target.narrow(axis, 0, 1)
        if not (bool((source == a).all()) and bool((target == b).all())):
            yield from _explicit(op, source, target)
            return
        if not bool(matrix.any()):
            return
        source, target = a, b
    yield from _elementwise(source, target)


def _explicit(op: EdgeOperator, source: torch.Tensor, target: torch.Tensor) -> Iterator[Pairs]:
    """For label patterns without structure: every edge, in pieces."""
    a, c = source.reshape(-1), target.reshape(-1)
    for piece in op.edges():
        s, t = a[piece.source], c[piece.target]
        keep = (s >= 0) & (t >= 0)
        s, t = s[keep], t[keep]
        if s.numel() == 0:
            continue
        yield from _joined(s, t, piece.weight[keep].abs() if op.weighted else None)


def _joined(source: torch.Tensor, target: torch.Tensor, amount: torch.Tensor | None) -> Iterator[Pairs]:
    """Each pair of labels once, its amounts added up."""
    if source.numel() == 0:
        return
    span = int(target.max()) + 1
    codes, inverse = torch.unique(source * span + target, return_inverse=True)
    total = None
    if amount is not None:
        total = torch.zeros(codes.numel(), dtype=torch.float64)
        total.index_add_(0, inverse, amount.to(torch.float64))
    yield Pairs(codes // span, codes % span, total)
