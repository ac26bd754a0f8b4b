"""A label for every slot of a graph, without a number for every slot.

Labels hang on few axes of a space (all positions of a channel have the label of the channel). They are kept
space by space as tensors whose constant axes have stride 0, and operands read them as strided views.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import torch

from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Identity
from deepstruct.structure.space import Space


class Labelling:
    """int64 labels of the slots of a graph, -1 where there is no unit.

    Attributes:
        parts: one tensor per space, of the space's shape; axes along which labels are constant may have stride 0.
    """

    def __init__(self, graph: StructureGraph, parts: Sequence[torch.Tensor] | None = None) -> None:
        self.graph = graph
        self._offsets = [space.offset for space in graph.spaces]
        nothing = torch.full((), -1)
        self.parts = list(parts) if parts is not None else [nothing.expand(slot_shape(s)) for s in graph.spaces]

    def copy(self) -> Labelling:
        return Labelling(self.graph, self.parts)

    def space_at(self, slot: int) -> int:
        """Index of the space that a slot is in."""
        return bisect_right(self._offsets, slot) - 1

    # -- reading

    def read(self, operand: Operand) -> torch.Tensor:
        """The labels of an operand's elements, in its shape; a view wherever that is possible."""
        if operand.numel == 0:
            return torch.full(operand.shape, -1)
        if operand.stride is None:
            return self._looked_up(operand.table)
        index = self.space_at(operand.offset)
        part, first = self.parts[index], operand.offset - self._offsets[index]
        walk = _walk(operand, first, part.shape)
        if walk is None:
            flat = part.reshape(-1).contiguous()
            return flat.as_strided(operand.shape, operand.stride, flat.storage_offset() + first)
        start, steps = walk
        stride = [sum(d * s for d, s in zip(digits, part.stride(), strict=True)) for digits in steps]
        offset = part.storage_offset() + sum(d * s for d, s in zip(start, part.stride(), strict=True))
        return part.as_strided(operand.shape, stride, offset)

    def _looked_up(self, table: torch.Tensor | None) -> torch.Tensor:
        assert table is not None
        out = torch.full(table.shape, -1)
        for index, here in self.spaces_in(table):
            part = self.parts[index]
            slots = (table[here] if here is not None else table.clamp(min=self._offsets[index])) - self._offsets[index]
            place, step = torch.zeros_like(slots), 1
            for n, stride in zip(reversed(part.shape), reversed(part.stride()), strict=True):
                if stride:
                    place += slots.div(step, rounding_mode="floor").remainder(n) * stride
                step *= n
            memory = part.as_strided((_reach(part),), (1,), part.storage_offset())
            if here is None:
                return memory[place].masked_fill_(table < 0, -1)
            out[here] = memory[place]
        return out

    def spaces_in(self, table: torch.Tensor) -> Iterator[tuple[int, torch.Tensor | None]]:
        """(index of a space, where a table of slots points into it); None in place of everywhere (-1 aside)."""
        units = table >= 0
        if not bool(units.any()):
            return
        low, high = (self.space_at(int(extreme)) for extreme in (table[units].min(), table.max()))
        if low == high:
            yield low, None
            return
        place = torch.searchsorted(torch.tensor(self._offsets), table.contiguous(), right=True) - 1
        for index in torch.bincount(place[units]).nonzero().reshape(-1).tolist():
            yield index, place == index

    # -- writing

    def write(self, operand: Operand, labels: torch.Tensor) -> None:
        """Set the labels of an operand's elements; axes of stride 0 stay so where the operand is a whole space."""
        if operand.numel == 0:
            return
        labels = labels.expand(operand.shape)
        if operand.stride is None:
            assert operand.table is not None
            for index, here in self.spaces_in(operand.table):
                here = operand.table >= 0 if here is None else here
                flat = self.parts[index].reshape(-1).clone()
                flat[operand.table[here] - self._offsets[index]] = labels[here]
                self.parts[index] = flat.view(self.parts[index].shape)
            return
        index = self.space_at(operand.offset)
        part, first = self.parts[index], operand.offset - self._offsets[index]
        whole = _whole(operand, labels, first, part.shape)
        if whole is None:
            flat = part.reshape(-1).clone()
            flat[(operand.index() - self._offsets[index]).reshape(-1)] = labels.reshape(-1)
            whole = flat.view(part.shape)
        self.parts[index] = whole

    # -- what graphs do to labels

    def without_dead(self) -> Labelling:
        """-1 on the slots that are no units."""
        out = self.copy()
        for space in self.graph.spaces:
            if space.live is not None and not bool(space.live.all()):
                part = out.parts[space.index]
                out.parts[space.index] = torch.where(space.live.view(part.shape), part, -1)
        return out

    def resolved(self) -> Labelling:
        """The labels of nodes: a unit that is part of a sum has the label of that sum."""
        out = self.copy()
        for op in reversed(self.graph.operators):
            if not isinstance(op, Identity) or op.fused is False:
                continue
            labels = out.read(op.target)
            if isinstance(op.fused, torch.Tensor):
                labels = torch.where(op.fused, labels, out.read(op.source))
            out.write(op.source, labels)
        return out

    def on_nodes(self, space: Space) -> torch.Tensor:
        """Labels of the nodes of a space, each at least once: in order, but constant axes taken once."""
        part, node = self.parts[space.index], self.graph.is_node[space.slots]
        if space.scores is not None or bool(node.all()):  # the labels of implicit scores are on their carriers
            return narrowed(part).reshape(-1)
        return part.reshape(-1)[node]

    def of_slots(self, space: Space, slots: torch.Tensor) -> torch.Tensor:
        """The labels where a boolean over the slots of a space is true."""
        return self.parts[space.index].reshape(-1)[slots]

    def tensor(self) -> torch.Tensor:
        """One label for every slot, written down."""
        parts = [part.reshape(-1) for part in self.parts]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def slot_shape(space: Space) -> tuple[int, ...]:
    """The shape of a space's slots: that of its units, or of the carriers of implicit scores."""
    if space.scores is None:
        return space.shape
    return (*space.scores.lead, space.scores.rows + space.scores.columns)


def narrowed(labels: torch.Tensor) -> torch.Tensor:
    """Axes of stride 0 cut to length 1."""
    for axis, (n, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)):
        if n > 1 and stride == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def narrowed_together(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors of one shape cut to length 1 along the axes that have stride 0 in all of them."""
    out = list(tensors)
    for axis, n in enumerate(tensors[0].shape):
        if n > 1 and all(t.stride(axis) == 0 for t in tensors):
            out = [t.narrow(axis, 0, 1) for t in out]
    return out


def constant_along(labels: torch.Tensor, axis: int) -> torch.Tensor | None:
    """The labels with one axis reduced to length 1 where they are constant along it (-1 aside), else None."""
    if labels.shape[axis] <= 1 or labels.stride(axis) == 0:
        return labels.narrow(axis, 0, 1) if labels.shape[axis] else None
    small = labels
    for other in range(labels.dim()):
        if labels.stride(other) == 0 and labels.shape[other] > 1:
            small = small.narrow(other, 0, 1)
    high = small.amax(axis, keepdim=True)
    if not bool(((small == high) | (small < 0)).all()):
        return None
    shape = list(labels.shape)
    shape[axis] = 1
    return high.expand(shape)


def numbered(labels: torch.Tensor) -> torch.Tensor:
    """The distinct labels as 0, 1, ... in ascending order; -1 takes part as the smallest."""
    if labels.numel() == 0:
        return labels
    small = narrowed(labels)
    for axis in range(labels.dim()):
        first = small.narrow(axis, 0, 1)
        if small.shape[axis] > 1 and bool((small == first).all()):
            small = first
    low, high = int(small.min()), int(small.max())
    if high - low < 4 * small.numel() + 1024:  # by counting, not by sorting
        seen = torch.zeros(high - low + 1, dtype=torch.bool)
        seen[(small - low).reshape(-1)] = True
        number = (torch.cumsum(seen, 0) - 1)[small - low]
    else:
        number = torch.unique(small, return_inverse=True)[1]
    return number.expand(labels.shape)


def distinct(numbers: torch.Tensor) -> torch.Tensor:
    """The distinct values of a vector of non-negative integers, ascending: by counting where they lie close."""
    if numbers.numel() == 0:
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return numbers[:1]
    if high - low > 16 * numbers.numel() + (1 << 20):
        return torch.unique(numbers)
    return torch.bincount(numbers - low).nonzero().reshape(-1) + low


def _reach(part: torch.Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(part.shape, part.stride(), strict=True))


def _digits(number: int, shape: Sequence[int]) -> list[int] | None:
    """A flat row-major step as steps along the axes; None where it leads out of the shape."""
    digits = []
    for n in reversed(shape):
        digits.append(number % n)
        number //= n
    return None if number else digits[::-1]


def _walk(operand: Operand, first: int, shape: Sequence[int]) -> tuple[list[int], list[list[int]]] | None:
    """Where a strided operand starts in a space, and how each of its axes moves along those of the space.

    None where an axis wraps around the end of one of the space's axes: then the map is not affine in them.
    """
    assert operand.stride is not None
    start = _digits(first, shape)
    if start is None:
        return None
    last, steps = list(start), []
    for n, step in zip(operand.shape, operand.stride, strict=True):
        digits = _digits(step, shape) if n > 1 else [0] * len(shape)
        if digits is None:
            return None
        steps.append(digits)
        last = [a + (n - 1) * d for a, d in zip(last, digits, strict=True)]
    return (start, steps) if all(a < n for a, n in zip(last, shape, strict=True)) else None


def _whole(operand: Operand, labels: torch.Tensor, first: int, shape: Sequence[int]) -> torch.Tensor | None:
    """Labels of an operand that covers a whole space in the space's shape; None where it does not."""
    if first or operand.numel != math.prod(shape) or not operand.injective:
        return None
    walk = _walk(operand, first, shape)
    if walk is None:
        return None
    axes = [[j for j, d in enumerate(digits) if d] for digits in walk[1]]
    if any(len(moved) > 1 for moved in axes):
        return None
    varying = {j for k, moved in enumerate(axes) for j in moved if labels.stride(k) != 0}
    written = [k for k, moved in enumerate(axes) if moved and moved[0] in varying]
    small = torch.empty([n if j in varying else 1 for j, n in enumerate(shape)], dtype=torch.int64)
    values = labels
    for k in range(labels.dim()):
        if k not in written:
            values = values.narrow(k, 0, 1)
    values = values.reshape([operand.shape[k] for k in written])
    strides = [walk[1][k][axes[k][0]] * small.stride(axes[k][0]) for k in written]
    small.as_strided(values.shape, strides).copy_(values)
    return small.expand(tuple(shape))
