"""Which channel (feature, head) every unit belongs to: the labels that make the first order.

Contractions set the channel. Merges, windows and reductions inherit it where it is constant over what
they read; otherwise they are one channel. A product of activations inherits from its values, else from
its weights, else its batch index (the head) is the channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

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
from deepstruct.structure.orders.labelling import (
    Labelling,
    constant_along,
    distinct,
    narrowed,
    narrowed_together,
    numbered,
    slot_shape,
)
from deepstruct.structure.space import Space


def channel_labels(graph: StructureGraph, unit: str = "channel") -> Labelling:
    """A channel number, which no other space uses, for every slot of a zeroth-order graph; -1 without a unit.

    Args:
        unit: "channel", or "head" to take the heads of an attention layer as the channels of what it reads.
    """
    channels = _Channels(graph, {})
    labels = channels.run()
    if unit == "head":
        labels = _Channels(graph, _heads(graph, labels, channels.first)).run()
    return labels


class _Channels:
    """One pass in trace order; `heads` renames the channels of some spaces: space -> (channel -> head).

    `first` has the smallest number that each space may use: a space takes as many as it has channels.
    """

    def __init__(self, graph: StructureGraph, heads: dict[int, dict[int, int]]) -> None:
        self.graph, self.heads = graph, heads
        self.labels = Labelling(graph)
        self.first = [0]

    def run(self) -> Labelling:
        graph = self.graph
        writers: dict[int, list[EdgeOperator]] = defaultdict(list)
        convolved: dict[int, list[Conv]] = defaultdict(list)
        for op in graph.operators:
            writers[self.labels.space_at(op.target.first_slot)].append(op)
            if isinstance(op, Conv) and (first := _first_slot(op.source)) is not None:
                convolved[self.labels.space_at(first)].append(op)
        for space in graph.spaces:
            if space.is_source or not writers[space.index]:
                shape = slot_shape(space)
                axis = _source_axis(space, convolved[space.index]) if shape == space.shape else 0
                self._set(space, _along(shape, axis))
            else:
                for region in _regions(writers[space.index]):
                    local = self._local(region)
                    small = narrowed(local)
                    labels = torch.where(small >= 0, small + self.first[space.index], -1).expand(local.shape)
                    self.labels.write(region[0].target, labels)
            self._rename(space)
            highest = narrowed(self.labels.parts[space.index])
            count = int(highest.max()) + 1 - self.first[space.index] if highest.numel() else 0
            self.first.append(self.first[-1] + max(count, 0))
        return self.labels.without_dead()

    def _set(self, space: Space, local: torch.Tensor) -> None:
        self.labels.parts[space.index] = (local + self.first[space.index]).expand(slot_shape(space))

    def _rename(self, space: Space) -> None:
        heads = self.heads.get(space.index)
        if heads is None:
            return
        here = self.labels.parts[space.index]
        local = narrowed(here) - self.first[space.index]
        table = torch.arange(max(int(local.max()), *heads) + 1)
        for channel, head in heads.items():
            table[channel] = head
        moved = torch.where(local >= 0, table[local.clamp(min=0)] + self.first[space.index], -1)
        self.labels.parts[space.index] = moved.expand(here.shape)

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
        if all(isinstance(op, (QueryScores, KeyScores)) for op in ops):
            return self._scored(ops)
        if all(isinstance(op, (Matmul, ScoreOutputs)) for op in ops):
            return self._mixed(ops)
        if len(ops) == 1:
            inherited = self._inherited(ops[0])
            if inherited is not None:
                return numbered(inherited)
        return torch.zeros((), dtype=torch.int64).expand(shape)

    def _merged(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """Elements are one channel where all operands agree; the finest operand names it.

        An operand without a unit there (a class token, a margin of zeros) has no say.
        """
        read = [self.labels.read(op.source) for op in ops]
        shape = torch.broadcast_shapes(*(r.shape for r in read))
        numbers = [_numbered_units(labels) for labels in read]
        counts = [int(narrowed(n).max()) + 1 if n.numel() else 0 for n in numbers]
        local, count = narrowed(numbers[0]), counts[0]
        for number, own in zip(numbers[1:], counts[1:], strict=True):
            local = _numbered_units(_agreed(local, narrowed(number), count, own))
            count = int(local.max()) + 1 if local.numel() else 0
        if count <= max(counts):
            return local.expand(shape)
        where = [narrowed(n) < 0 for n in numbers]
        alone = [int(distinct(local[m.expand(local.shape)]).numel()) if bool(m.any()) else 0 for m in where]
        most = [own + others for own, others in zip(counts, alone, strict=True)]
        if count <= max(most):
            return local.expand(shape)
        best = counts.index(max(counts))  # the operands disagree
        finest = numbers[best].expand(shape)
        return torch.where(where[best], counts[best] + local, finest) if alone[best] else finest

    def _mixed(self, ops: list[EdgeOperator]) -> torch.Tensor:
        """Values first (the transposed side, written last), then weights, then the batch index."""
        shape = ops[0].target.shape
        for op in reversed(ops):
            labels = self.labels.read(op.source)
            constant = _constant_in_rows(op, labels) if isinstance(op, ScoreOutputs) else constant_along(labels, -1)
            if constant is not None and int(narrowed(constant).min()) >= 0:
                local = numbered(constant).expand(op.target.shape)
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
        nothing = torch.full((), -1)
        for op in reversed(ops):
            constant = constant_along(self.labels.read(op.source), -1)
            if constant is None or int(constant.min()) < 0:
                continue
            local = numbered(constant).squeeze(-1)
            if isinstance(op, KeyScores):
                return scores.joined(nothing, torch.where(scores.column_counts > 0, local, -1))
            return scores.joined(torch.where(scores.row_counts > 0, local, -1), nothing)
        head = torch.arange(scores.heads).view(*scores.lead, 1)
        return scores.joined(torch.where(scores.row_counts > 0, head, -1), nothing)

    def _inherited(self, op: EdgeOperator) -> torch.Tensor | None:
        labels = self.labels.read(op.source)
        if isinstance(op, Separable):
            for axis, matrix in enumerate(op.axes):
                if matrix is None:
                    continue
                constant = constant_along(labels, axis)
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


def _numbered_units(labels: torch.Tensor) -> torch.Tensor:
    """As `numbered`, but where there is no unit it stays -1."""
    numbers = numbered(labels)
    return numbers - 1 if labels.numel() and int(narrowed(labels).min()) < 0 else numbers


def _agreed(a: torch.Tensor, b: torch.Tensor, of_a: int, of_b: int) -> torch.Tensor:
    """One number for each pair of labels 0, 1, ... that meet; -1 is no label.

    Where only one has a label, it is the pair that this label is in elsewhere, if that is one and the same.
    """
    a, b = torch.broadcast_tensors(a, b)
    both = (a >= 0) & (b >= 0)
    codes = torch.where(both, a * of_b + b, -1)
    if bool(both.all()):
        return codes
    for labels, count, first in ((a, of_a, of_a * of_b), (b, of_b, of_a * of_b + of_a)):
        alone = (codes < 0) & (labels >= 0)
        if not bool(alone.any()):
            continue
        low, high = torch.full((count,), torch.iinfo(torch.int64).max), torch.full((count,), -1)
        low.scatter_reduce_(0, labels[both], codes[both], "amin")
        high.scatter_reduce_(0, labels[both], codes[both], "amax")
        table = torch.where(low == high, high, first + torch.arange(count))
        codes = torch.where(alone, table[labels.clamp(min=0)], codes)
    return codes


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
    scores = op.scores
    rows, columns = scores.split(labels)
    if bool((rows >= 0).any()):
        return rows.unsqueeze(-1)
    if scores.mask is None:
        one = constant_along(columns, -1)
        return None if one is None else one.unsqueeze(-1).expand(*scores.lead, scores.rows, 1)
    found = []
    for kept, here in zip(scores.kept_by_head(), columns.reshape(scores.heads, -1), strict=True):
        one = constant_along(torch.where(kept, here, -1), -1)
        if one is None:
            return None
        found.append(one)
    return torch.stack(found).view(*scores.lead, scores.rows, 1)


def _aligned(op: EdgeOperator, first: EdgeOperator, local: torch.Tensor) -> torch.Tensor:
    """Labels over op's target as labels over the target of `first` (the same slots, perhaps transposed)."""
    turned = (*range(local.dim() - 2), -1, -2)
    here, there = op.target, first.target
    strided = here.stride is not None and there.stride is not None and here.offset == there.offset
    if strided and _axes(here) == [_axes(there)[b] for b in turned]:
        return local.transpose(-1, -2)
    slots = op.target.index().reshape(-1)
    start = int(slots.min())
    flat = torch.empty(slots.numel(), dtype=torch.int64)
    flat[slots - start] = local.reshape(-1)
    return flat[first.target.index() - start]


def _axes(operand: Operand) -> list[tuple[int, int]]:
    """(length, step) of every axis of a strided operand."""
    assert operand.stride is not None
    return list(zip(operand.shape, operand.stride, strict=True))


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


def _heads(graph: StructureGraph, labels: Labelling, first: list[int]) -> dict[int, dict[int, int]]:
    """For spaces that attention reads: which head each of its channels (0, 1, ...) belongs to, where that is one."""
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
        batch = torch.arange(torch.Size(lead).numel()).view(*lead, *rest).expand(op.source.shape)
        for index, channels, heads in _read_by(op.source, labels, batch):
            if op.source.scores is not None:  # one part of the carriers has the labels
                channels, heads = channels[channels >= 0], heads[channels >= 0]
            here = torch.stack([channels - first[index], heads]).unique(dim=1)
            table = found.setdefault(index, {})
            for label, head in here.T.tolist():
                if table.setdefault(label, head) != head:
                    mixed.add(index)
    kept = {}
    for index, table in found.items():
        every = narrowed(labels.parts[index])
        if index not in mixed and set((every[every >= 0] - first[index]).unique().tolist()) == set(table):
            kept[index] = table
    return kept


def _read_by(
    operand: Operand, labels: Labelling, batch: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(space, channels, batch indices) of the units that an operand reads."""
    read = labels.read(operand)
    if operand.table is None:
        channels, heads = narrowed_together(read, batch)
        yield labels.space_at(operand.offset), channels.reshape(-1), heads.reshape(-1)
        return
    for index, here in labels.spaces_in(operand.table):
        here = operand.table >= 0 if here is None else here
        yield index, read[here], batch[here]
