"""Which channel (feature, head) every unit belongs to: the labels that make the first order.

Contractions set the channel. Merges, windows and reductions inherit it where it is constant over what
they read; otherwise they are one channel. A product of activations inherits from its values, else from
its weights, else its batch index (the head) is the channel.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    KeyScores,
    Matmul,
    QueryScores,
    ScoreOperator,
    ScoreOutputs,
    Separable,
    Sparse,
)
from deepstruct.structure.space import Space


def channel_labels(graph: StructureGraph, unit: str = "channel") -> torch.Tensor:
    """int64 per slot of a zeroth-order graph: a channel number that no other space uses; -1 without a unit.

    Args:
        unit: "channel", or "head" to take the heads of an attention layer as the channels of what it reads.
    """
    channels = _Channels(graph, {})
    labels = channels.run()
    if unit == "head":
        labels = _Channels(graph, _heads(graph, labels)).run()
    return labels


class _Channels:
    """One pass in trace order; `heads` renames the channels of some spaces: space -> (label -> head)."""

    def __init__(self, graph: StructureGraph, heads: dict[int, dict[int, int]]) -> None:
        self.graph, self.heads = graph, heads
        self.labels = torch.full((graph.num_slots,), -1, dtype=torch.int64)
        self.first = [0]
        for space in graph.spaces:
            self.first.append(self.first[-1] + max(space.numel, 1))  # numbers that a space may use

    def run(self) -> torch.Tensor:
        graph = self.graph
        writers: dict[int, list[EdgeOperator]] = defaultdict(list)
        convolved: dict[int, list[Conv]] = defaultdict(list)
        offsets = torch.tensor([s.offset for s in graph.spaces])
        for op in graph.operators:
            where = int(torch.searchsorted(offsets, torch.tensor(op.target.first_slot), right=True)) - 1
            writers[where].append(op)
            if isinstance(op, Conv) and (first := _first_slot(op.source)) is not None:
                convolved[int(torch.searchsorted(offsets, torch.tensor(first), right=True)) - 1].append(op)
        for space in graph.spaces:
            if space.is_source or not writers[space.index]:
                self._set(space, _along(space.shape, _source_axis(space, convolved[space.index])))
                continue
            for region in _regions(writers[space.index]):
                local = self._local(region)
                slots = region[0].target.index()
                self.labels[slots.reshape(-1)] = torch.where(local >= 0, local + self.first[space.index], -1).reshape(-1)
            self._rename(space)
        if graph.live is not None:
            self.labels[~graph.live] = -1
        return self.labels

    def _set(self, space: Space, local: torch.Tensor) -> None:
        self.labels[space.slots] = local.expand(space.shape).reshape(-1) + self.first[space.index]
        self._rename(space)

    def _rename(self, space: Space) -> None:
        heads = self.heads.get(space.index)
        if heads is None:
            return
        here = self.labels[space.slots]
        table = torch.arange(self.first[space.index + 1] - self.first[space.index])
        for label, head in heads.items():
            table[label - self.first[space.index]] = head
        valid = here >= 0
        moved = torch.where(valid, table[(here - self.first[space.index]).clamp(min=0)] + self.first[space.index], -1)
        self.labels[space.slots] = moved

    def _local(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """Labels 0, 1, ... of the elements of a region that these operators write."""
        shape = ops[0].target.shape
        for op in ops:
            if isinstance(op, Conv):
                return _along(shape, 1).expand(shape)
            if isinstance(op, Matmul) and op.weighted:
                tensor = op.weight.tensor if op.weight is not None else None
                local = _along(shape, len(shape) - 1).expand(shape)
                if tensor is not None and tensor.dim() > 2:
                    batch = torch.arange(local.numel() // (shape[-1] * shape[-2])).view(*shape[:-2], 1, 1)
                    local = local + batch * shape[-1]
                return local.expand(shape)
        if all(isinstance(op, Identity) for op in ops):
            return self._merged(ops)
        if all(isinstance(op, (Matmul, ScoreOutputs)) for op in ops):
            return self._mixed(ops)
        if all(isinstance(op, (QueryScores, KeyScores)) for op in ops):
            return self._scored(ops)
        if len(ops) == 1:
            inherited = self._inherited(ops[0])
            if inherited is not None:
                return _numbered(inherited)
        return torch.zeros(shape, dtype=torch.int64)

    def _read(self, operand: Operand) -> torch.Tensor:
        return operand.gather(self.labels, -1)

    def _merged(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """One channel for each combination of channels that meet, unless there are more than operands have."""
        read = [self._read(op.source) for op in ops]
        codes, most = None, 0
        for labels in read:
            number = _numbered(labels)
            count = int(number.max()) + 1 if number.numel() else 0
            most = max(most, count)
            codes = number if codes is None else codes * count + number
        assert codes is not None
        local = _numbered(codes)
        if local.numel() and int(local.max()) + 1 > most:
            widest = max(read, key=lambda labels: int(_numbered(labels).max()))
            return _numbered(widest)
        return local

    def _mixed(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """Values first (the transposed side, written last), then weights, then the batch index."""
        shape = ops[0].target.shape
        for op in reversed(ops):
            labels = self._read(op.source)
            constant = _constant_in_rows(op, labels) if isinstance(op, ScoreOutputs) else _constant_along(labels, -1)
            if constant is not None and int(constant.min()) >= 0:
                local = _numbered(constant).expand(op.target.shape)
                return local if op.target.shape == shape and op is ops[0] else _aligned(op, ops[0], local)
        batch = 1
        for n in shape[:-2]:
            batch *= n
        return torch.arange(batch).view(*shape[:-2], 1, 1).expand(shape)

    def _scored(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """Labels of the carriers of scores, as `_mixed` gives them to their units: on the columns if the keys decide,
        on the rows if the queries or the heads do; -1 on the other part, and where there is no unit."""
        scores = ops[0].target.scores
        assert scores is not None
        no_rows = torch.full((*scores.lead, scores.rows), -1)
        no_columns = torch.full((*scores.lead, scores.columns), -1)
        for op in reversed(ops):
            constant = _constant_along(self._read(op.source), -1)
            if constant is None or int(constant.min()) < 0:
                continue
            local = _numbered(constant).squeeze(-1)
            if isinstance(op, KeyScores):
                return scores.joined(no_rows, torch.where(scores.column_counts > 0, local, -1))
            return scores.joined(torch.where(scores.row_counts > 0, local, -1), no_columns)
        head = torch.arange(scores.heads).view(*scores.lead, 1).expand_as(no_rows)
        return scores.joined(torch.where(scores.row_counts > 0, head, -1), no_columns)

    def _inherited(self, op: EdgeOperator) -> torch.Tensor | None:
        labels = self._read(op.source)
        if isinstance(op, Separable):
            for axis, matrix in enumerate(op.axes):
                if matrix is None:
                    continue
                constant = _constant_along(labels, axis)
                if constant is None:
                    return None
                labels = constant
            return labels.expand(op.target.shape)
        if isinstance(op, Sparse):
            values = labels.reshape(-1)[op.rows]
            low = torch.full((op.target.numel,), torch.iinfo(torch.int64).max)
            high = torch.full((op.target.numel,), -1)
            low.scatter_reduce_(0, op.cols, values, "amin")
            high.scatter_reduce_(0, op.cols, values, "amax")
            read = high >= 0
            return high.view(op.target.shape) if torch.equal(low[read], high[read]) else None
        return None


def _regions(ops: list[EdgeOperator]) -> list[list[EdgeOperator]]:
    """Operators grouped by the part of the space that they write, in order of first appearance."""
    groups: dict[tuple[int, int], list[EdgeOperator]] = {}
    scattered = [op for op in ops if op.target.table is not None]  # they may write anywhere: each for itself
    for op in ops:
        if op.target.table is None:
            groups.setdefault((op.target.offset, op.target.numel), []).append(op)
    done = [[op] for op in scattered]
    covered: list[tuple[int, int]] = []
    for (start, size), members in sorted(groups.items(), key=lambda item: -item[0][1]):
        if any(a <= start and start + size <= a + n for a, n in covered):
            continue  # inside a larger region that has its labels already
        covered.append((start, size))
        done.append(members)
    return done


def _constant_in_rows(op: ScoreOutputs, labels: torch.Tensor) -> torch.Tensor | None:
    """Labels of scores by their carriers, as one label per row (*lead, rows, 1) where that is possible, else None."""
    rows, columns = op.scores.split(labels)
    if bool((rows >= 0).any()) or op.scores.mask is None:
        one = rows.unsqueeze(-1) if bool((rows >= 0).any()) else _constant_along(columns, -1)
        return None if one is None else one.view(*op.scores.lead, -1, 1).expand(*op.scores.lead, op.scores.rows, 1)
    found = []
    for kept, here in zip(op.scores.kept_by_head(), columns.reshape(op.scores.heads, -1), strict=True):
        one = _constant_along(torch.where(kept, here, -1), -1)
        if one is None:
            return None
        found.append(one)
    return torch.stack(found).view(*op.scores.lead, op.scores.rows, 1)


def _aligned(op: EdgeOperator, first: EdgeOperator, local: torch.Tensor) -> torch.Tensor:
    """Labels over op's target as labels over the target of `first` (the same slots, perhaps transposed)."""
    slots = op.target.index().reshape(-1)
    start = int(slots.min())
    flat = torch.empty(slots.numel(), dtype=torch.int64)
    flat[slots - start] = local.reshape(-1)
    return flat[first.target.index() - start]


def _source_axis(space: Space, readers: list[Conv]) -> int:
    """The channel axis of an input: that of a convolution which reads it, else 1 for images, else the last.

    So audio without a channel axis, and images whose channels come last, have the channels that their first
    layer sees.
    """
    rank = len(space.shape)
    if space.kind != "source":
        return rank - 1
    for op in readers:
        axis = _convolved_axis(space, op.source)
        if axis is not None:
            return axis
    return 1 if rank >= 4 else rank - 1


def _convolved_axis(space: Space, operand: Operand) -> int | None:
    """The axis of a space along which the channel axis of a convolution's operand runs, None where there is none."""
    slots = operand.index() - space.offset
    read = (slots >= 0) & (slots < space.numel)
    channel = _along(operand.shape, 1).expand(operand.shape)[read]
    if channel.numel() == 0:
        return None
    rank = len(space.shape)
    for axis in sorted(range(rank), key=lambda a: a != 1):
        place = _along(space.shape, axis).expand(space.shape).reshape(-1)[slots[read]]
        shift = place - channel  # not 0 where it reads a slice of the channels
        if bool((shift == shift[0]).all()):
            return axis
    return None


def _first_slot(operand: Operand) -> int | None:
    """The smallest slot that an operand reads, None where it reads none."""
    if operand.table is None:
        return operand.offset if operand.numel else None
    units = operand.table[operand.table >= 0]
    return int(units.min()) if units.numel() else None


def _along(shape: tuple[int, ...], axis: int) -> torch.Tensor:
    if not shape:
        return torch.zeros((), dtype=torch.int64)
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return torch.arange(shape[axis]).view(view)


def _constant_along(labels: torch.Tensor, axis: int) -> torch.Tensor | None:
    """Labels with one axis reduced to length 1 where they are constant along it (-1 aside), else None."""
    if labels.shape[axis] == 0:
        return None
    high = labels.amax(axis, keepdim=True)
    return high if bool(((labels == high) | (labels < 0)).all()) else None


def _numbered(labels: torch.Tensor) -> torch.Tensor:
    """The distinct labels as 0, 1, ... in ascending order; -1 takes part as the smallest."""
    if labels.numel() == 0:
        return labels
    small = labels
    for axis in range(labels.dim()):
        first = small.narrow(axis, 0, 1)
        if bool((small == first).all()):
            small = first
    _, inverse = torch.unique(small, return_inverse=True)
    return inverse.expand(labels.shape)


def distinct(numbers: torch.Tensor) -> torch.Tensor:
    """The distinct values of a vector of small non-negative integers, ascending: by counting, not by sorting."""
    if numbers.numel() == 0:
        return numbers
    low = int(numbers.min())
    if low == int(numbers.max()):
        return numbers[:1]
    return torch.bincount(numbers - low).nonzero().reshape(-1) + low


def _heads(graph: StructureGraph, labels: torch.Tensor) -> dict[int, dict[int, int]]:
    """For the spaces that attention reads: which head each channel belongs to, where that is one head."""
    offsets = torch.tensor([s.offset for s in graph.spaces])
    found: dict[int, dict[int, int]] = {}
    mixed: set[int] = set()
    for op in graph.operators:
        if isinstance(op, ScoreOperator):
            lead = op.scores.lead
        elif isinstance(op, Matmul) and not op.weighted:
            lead = op.source.shape[:-2]
        else:
            continue
        if not lead:
            continue
        rest = [1] * (len(op.source.shape) - len(lead))
        batch = torch.arange(torch.Size(lead).numel()).view(*lead, *rest).expand(op.source.shape).reshape(-1)
        slots = op.source.index().reshape(-1)
        valid = slots >= 0
        if op.source.scores is not None:
            valid &= labels[slots] >= 0  # the carriers that do not decide
        pairs = torch.stack([labels[slots[valid]], batch[valid], slots[valid]])
        spaces = torch.searchsorted(offsets, pairs[2], right=True) - 1
        for index in spaces.unique().tolist():
            here = pairs[:2, spaces == index].unique(dim=1)
            table = found.setdefault(index, {})
            for label, head in here.T.tolist():
                if table.setdefault(label, head) != head:
                    mixed.add(index)
    kept = {}
    for index, table in found.items():
        every = labels[graph.spaces[index].slots]
        if index not in mixed and set(every[every >= 0].unique().tolist()) == set(table):
            kept[index] = table
    return kept
