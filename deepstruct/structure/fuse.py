"""Fused sums: a unit whose only out-edge is a linear identity edge into a sum is part of that sum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity
from deepstruct.structure.space import Space

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph


class Parents:
    """Which units are parts of a sum, from the fused identity edges of some operators; written down when asked for."""

    def __init__(self, operators: Sequence[EdgeOperator], slots: int) -> None:
        self._fused = [op for op in operators if isinstance(op, Identity) and op.fused is not False]
        self._slots = slots

    def clear(self, node: torch.Tensor) -> None:
        """Set a boolean vector over the slots to False where a slot is part of a sum."""
        for op in self._fused:
            if op.fused is True and op.source.injective:
                op.source.gather(node).fill_(False)
            else:
                index = op.source.index()
                node[index.reshape(-1) if op.fused is True else index[op.fused]] = False

    def of(self, slots: torch.Tensor) -> torch.Tensor:
        """The slot of the sum that each of some units is part of, itself for all others; nothing is written down.

        Args:
            slots: int64, of any shape; negative numbers (no unit) stay.
        """
        if "tensor" in self.__dict__:
            return torch.where(slots >= 0, self.tensor[slots.clamp(min=0)], slots)
        found = slots.clone()
        if found.numel() == 0:
            return found
        low, high = int(found.min()), int(found.max())
        for (first, last), op in zip(self._spans, self._fused, strict=True):  # in order: sums of sums come later
            if high < first or last < low:
                continue
            inside = (found >= first) & (found <= last)
            if not bool(inside.any()):
                continue
            here, there = op.source.index(), op.target.index()
            if isinstance(op.fused, torch.Tensor):
                here, there = here[op.fused], there[op.fused]
            sums = torch.arange(first, last + 1)
            sums[here.reshape(-1) - first] = there.reshape(-1)
            found[inside] = sums[found[inside] - first]
            low, high = int(found.min()), int(found.max())
        return found

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """Lowest and highest slot of the parts that each fused edge takes."""
        return [op.source.span() for op in self._fused]

    @cached_property
    def tensor(self) -> torch.Tensor:
        """int64 per slot: the slot of the sum that it is part of, itself for all others."""
        parent = torch.arange(self._slots)
        for op in reversed(self._fused):  # a sum can itself be part of a later one, whose parent is known by then
            here, there = op.source.index(), op.target.index()
            if isinstance(op.fused, torch.Tensor):
                here, there = here[op.fused], there[op.fused]
            parent[here.reshape(-1)] = parent[there.reshape(-1)]
        return parent


class ParentField:
    """The field `parent` of a graph: given as `Parents`, read as a tensor."""

    @overload
    def __get__(self, graph: None, owner: type[StructureGraph]) -> None: ...

    @overload
    def __get__(self, graph: StructureGraph, owner: type[StructureGraph]) -> torch.Tensor | None: ...

    def __get__(self, graph: StructureGraph | None, owner: type[StructureGraph]) -> torch.Tensor | None:
        if graph is None:
            return None  # the default
        given: Parents | torch.Tensor | None = graph.__dict__.get("_parents")
        return given.tensor if isinstance(given, Parents) else given

    def __set__(self, graph: StructureGraph, value: Parents | torch.Tensor | None) -> None:
        graph.__dict__["_parents"] = value


def fuse_sums(
    spaces: Sequence[Space], operators: Sequence[EdgeOperator], is_output: torch.Tensor
) -> Parents | None:
    """Marks fused identity edges on their operators and says which slot each unit became part of.

    One transposed pass gives the out-degrees of the units in question. The result does not depend on how a
    library batches its projections.

    Args:
        is_output: boolean per slot.

    Returns:
        The sums that units are part of; None if nothing fused.
    """
    sums = [op for op in operators if isinstance(op, Identity) and op.fusable is not False]
    if not sums:
        return None
    offsets = torch.tensor([s.offset for s in spaces])
    additive = torch.tensor([s.additive for s in spaces])
    wanted = torch.zeros(len(spaces), dtype=torch.bool)
    for op in sums:
        wanted[_spaces_of(op, offsets)] = True
    wanted &= additive
    if not bool(wanted.any()):
        return None
    chosen = _Chosen(spaces, wanted, offsets)
    can = _read_once(spaces, operators, is_output, chosen)
    any_fused = False
    for op in sums:
        source = chosen.operand(op.source)
        if source is None:
            continue
        fused = source.gather(can, False)
        if isinstance(op.fusable, torch.Tensor):
            fused = fused & op.fusable
        if bool(fused.any()):
            any_fused = True
            op.fused = True if bool(fused.all()) else fused.clone()
    return Parents(operators, is_output.numel()) if any_fused else None


def _read_once(
    spaces: Sequence[Space], operators: Sequence[EdgeOperator], is_output: torch.Tensor, chosen: _Chosen
) -> torch.Tensor:
    """Boolean per slot of the chosen spaces: units with exactly one out-edge that are no output."""
    live = live_slots(spaces, is_output.numel())
    out_degree = torch.zeros(chosen.size, dtype=torch.float32)
    for reader in operators:
        source = chosen.operand(reader.source)
        if source is None:
            continue
        y = reader.target.ones(torch.float32)
        if live is not None:
            y = reader.target.gather(live).to(torch.float32)
        out = reader.backward(y)
        # one edge or many is all the same here, and many may round to anything
        source.accumulate(out_degree, out if isinstance(reader, Identity) else (out > 0.5).to(out.dtype))
    can = (out_degree > 0.5) & (out_degree < 1.5)
    for index, start in chosen.first.items():
        space = spaces[index]
        here = can[start : start + space.numel]
        here &= ~is_output[space.slots]
        if live is not None:
            here &= live[space.slots]
    return can


class _Chosen:
    """Some spaces, their slots numbered without gaps: those of all others need no memory.

    `first` has the new number of the first slot of each chosen space.
    """

    def __init__(self, spaces: Sequence[Space], wanted: torch.Tensor, offsets: torch.Tensor) -> None:
        self.first: dict[int, int] = {}
        self.size = 0
        self._offsets, self._wanted = offsets, wanted
        self._shift = torch.zeros(len(spaces), dtype=torch.int64)
        for space, chosen in zip(spaces, wanted.tolist(), strict=True):
            if chosen:
                self.first[space.index] = self.size
                self._shift[space.index] = self.size - space.offset
                self.size += space.numel

    def operand(self, operand: Operand) -> Operand | None:
        """The same elements in the new numbers, -1 where they are of other spaces; None where all are."""
        if operand.numel == 0:
            return None
        if operand.table is None:
            index = int(torch.searchsorted(self._offsets, operand.offset, right=True)) - 1
            if index not in self.first:
                return None
            assert operand.stride is not None
            return Operand.strided(operand.shape, operand.stride, operand.offset + int(self._shift[index]))
        place = torch.searchsorted(self._offsets, operand.table.contiguous(), right=True).sub_(1).clamp_(min=0)
        units = (operand.table >= 0) & self._wanted[place]
        if not bool(units.any()):
            return None
        return Operand.indexed(torch.where(units, operand.table + self._shift[place], -1))


def live_slots(spaces: Sequence[Space], slots: int) -> torch.Tensor | None:
    """Boolean per slot, False where there is no unit; None where all are."""
    if all(s.live is None for s in spaces):
        return None
    live = torch.ones(slots, dtype=torch.bool)
    for space in spaces:
        if space.live is not None:
            live[space.slots] = space.live
    return live


def _spaces_of(op: EdgeOperator, offsets: torch.Tensor) -> torch.Tensor:
    """Indices of the spaces that an operator reads."""
    if op.source.table is None:
        first = torch.tensor([op.source.offset])
    else:
        table = op.source.table
        first = table[table >= 0]
        if first.numel() == 0:
            return first
    seen = torch.zeros(offsets.numel(), dtype=torch.bool)
    seen[torch.searchsorted(offsets, first, right=True) - 1] = True
    return seen.nonzero().reshape(-1)
