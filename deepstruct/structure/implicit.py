"""Attention that a model writes out, found after reading: its scores become implicit.

A mix of two activations whose units are read by one product alone, each row by the outputs of that row, is
the score matrix of attention, whatever lies between (scale, bias, mask, softmax, dropout: none of these makes
units). Its slots, one per score, are given back, and the slots behind them move up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from deepstruct.structure.mask import Mask
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, KeyScores, Matmul, QueryScores, ScoreOutputs
from deepstruct.structure.scores import Scores
from deepstruct.structure.space import Space


@dataclass(frozen=True)
class _Attention:
    """The operators around one space of scores, by their places in the list of operators."""

    space: Space
    scores: Scores
    queries: list[int]
    keys: list[int]
    reader: int


def make_implicit(
    spaces: Sequence[Space], operators: list[EdgeOperator], is_output: torch.Tensor, outputs: list[tuple[str, Operand]]
) -> torch.Tensor:
    """Turns what is attention into implicit scores, in place.

    Args:
        outputs: (name, operand) of every output; replaced by those over the new slots.

    Returns:
        `is_output` over the new slots.
    """
    found = _find(spaces, operators, is_output)
    if not found:
        return is_output
    moved = _Renumbering(spaces, {a.space.index: a.scores for a in found})
    for attention in found:
        attention.space.scores, attention.space.live = attention.scores, None
    for space in spaces:
        space.offset = moved.offsets[space.index]
    converted: dict[int, EdgeOperator] = {}
    for attention in found:
        scores, carriers = attention.scores, Operand.carriers(attention.scores, attention.space.offset)
        for k in attention.queries:
            source = moved.operand(_with_lead(operators[k].source, scores.lead))
            converted[k] = QueryScores(source, carriers, scores)
        for k in attention.keys:
            source = moved.operand(_with_lead(operators[k].source, scores.lead))
            converted[k] = KeyScores(source, carriers, scores)
        target = moved.operand(_with_lead(operators[attention.reader].target, scores.lead))
        converted[attention.reader] = ScoreOutputs(carriers, target, scores)
    for k, op in enumerate(operators):
        new = converted.get(k)
        if new is None:
            op.source, op.target = moved.operand(op.source), moved.operand(op.target)
        else:
            new.name, new.call = op.name, op.call
            operators[k] = new
    outputs[:] = [(name, moved.operand(operand)) for name, operand in outputs]
    return moved.vector(is_output)


def _find(spaces: Sequence[Space], operators: Sequence[EdgeOperator], is_output: torch.Tensor) -> list[_Attention]:
    candidates = {
        s.index: s for s in spaces
        if s.kind == "mix" and s.scores is None and len(s.shape) >= 2 and s.numel and not bool(is_output[s.slots].any())
    }  # fmt: skip
    if not candidates:
        return []
    offsets = torch.tensor([s.offset for s in spaces])
    writers: dict[int, list[int]] = defaultdict(list)
    readers: dict[int, list[int]] = defaultdict(list)
    seen: dict[int, list[int]] = {}
    for k, op in enumerate(operators):
        for index in _spaces_of(op.source, offsets, seen):
            readers[index].append(k)
        for index in _spaces_of(op.target, offsets, seen):
            writers[index].append(k)
    found = []
    for index, space in candidates.items():
        attention = _attention(space, operators, writers[index], readers[index])
        if attention is not None:
            found.append(attention)
    return found


def _spaces_of(operand: Operand, offsets: torch.Tensor, seen: dict[int, list[int]]) -> list[int]:
    """The spaces whose slots an operand has."""
    table = operand.table
    if table is None:
        return [int(torch.searchsorted(offsets, operand.offset, right=True)) - 1] if operand.numel else []
    if id(table) not in seen:
        slots = table[table >= 0]
        marks = torch.zeros(offsets.numel(), dtype=torch.bool)
        marks[torch.searchsorted(offsets, slots, right=True) - 1] = True
        seen[id(table)] = marks.nonzero().reshape(-1).tolist()
    return seen[id(table)]


def _attention(
    space: Space, operators: Sequence[EdgeOperator], writers: list[int], readers: list[int]
) -> _Attention | None:
    """The space as scores; None where it is something else."""
    if len(readers) != 1 or not 1 <= len(writers) <= 2:
        return None
    reader = operators[readers[0]]
    if not isinstance(reader, Matmul) or reader.weight is not None or reader.pattern is not None:
        return None
    kept = _kept(space, reader.source)
    if kept is None:
        return None
    rows, columns = space.shape[-2:]
    queries: list[int] = []
    keys: list[int] = []
    for k in writers:
        op = operators[k]
        if not isinstance(op, Matmul) or op.weight is not None or op.pattern is not None:
            return None
        side = _side(space, op.target)
        if side is None:
            return None
        (queries if side == "rows" else keys).append(k)
    if len(queries) > 1 or len(keys) > 1:
        return None
    lead = tuple(space.shape[:-2])
    if reader.target.shape[-2] != rows or reader.target.numel != rows * reader.outer * _product(lead):
        return None
    whole = bool(kept.all())
    if not bool(kept.any()):
        return None
    mask = None if whole else Mask(kept.view(*lead, rows, columns))
    return _Attention(space, Scores(lead, rows, columns, mask), queries, keys, readers[0])


def _kept(space: Space, source: Operand) -> torch.Tensor | None:
    """Boolean, flat over the space: the units that are read; None unless each is read in its own place."""
    if source.numel != space.numel or source.shape[-2:] != space.shape[-2:]:
        return None
    live = torch.ones(space.numel, dtype=torch.bool) if space.live is None else space.live
    if source.table is None:
        straight = Operand.strided(space.shape, _row_major(space.shape), space.offset)
        flat = Operand.strided(source.shape, _row_major(source.shape), space.offset)
        same = source.offset == space.offset and (source.stride == flat.stride or source.stride == straight.stride)
        return live if same else None
    index = source.table.reshape(-1)
    read = index >= 0
    own = torch.arange(space.offset, space.offset + space.numel)
    if not bool((~read | (index == own)).all()):
        return None
    return None if bool((live & ~read).any()) else live  # a unit that nothing reads is no score


def _side(space: Space, target: Operand) -> str | None:
    """Whether a writer's target runs over the space by rows (a query) or by columns (a key)."""
    if target.stride is None or target.offset != space.offset:
        return None
    lead, straight = space.shape[:-2], _row_major(space.shape)
    if target.shape == space.shape and target.stride == straight:
        return "rows"
    swapped = (*lead, space.shape[-1], space.shape[-2])
    return "columns" if target.shape == swapped and target.stride == (*straight[:-2], 1, space.shape[-1]) else None


def _with_lead(operand: Operand, lead: tuple[int, ...]) -> Operand:
    """The operand with its batch axes as those of the scores."""
    shape = (*lead, *operand.shape[-2:])
    if operand.shape == shape:
        return operand
    if operand.stride is None:
        assert operand.table is not None
        return Operand.indexed(operand.table.reshape(shape))
    # a view of numbers that stand for slots has the strides of the slots
    probe = torch.empty(0).as_strided(operand.shape, operand.stride)
    try:
        return replace(operand, shape=shape, stride=tuple(probe.view(shape).stride()))
    except RuntimeError:  # no single stride runs along the joined axes
        return Operand.indexed(operand.index().reshape(shape))


class _Renumbering:
    """Slots before and after some spaces shrink to their carriers."""

    def __init__(self, spaces: Sequence[Space], scores: dict[int, Scores]) -> None:
        self.old = torch.tensor([s.offset for s in spaces])
        self.offsets: list[int] = []
        total = 0
        for space in spaces:
            self.offsets.append(total)
            total += scores[space.index].carriers if space.index in scores else space.numel
        self.total = total
        self.shift = torch.tensor(self.offsets) - self.old
        self._keep = [(s.slots, slice(o, o + s.numel)) for s, o in zip(spaces, self.offsets, strict=True)
                      if s.index not in scores]  # fmt: skip
        self._tables: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def operand(self, operand: Operand) -> Operand:
        if operand.numel == 0:
            return operand
        if operand.table is None:
            space = int(torch.searchsorted(self.old, operand.offset, right=True)) - 1
            return replace(operand, offset=operand.offset + int(self.shift[space]))
        return Operand.indexed(self._table(operand.table))

    def _table(self, table: torch.Tensor) -> torch.Tensor:
        known = self._tables.get(id(table))
        if known is None:  # the old table is kept beside the new one, so that its id stays its own
            shift = self.shift[torch.searchsorted(self.old, table.contiguous(), right=True).sub_(1).clamp_(min=0)]
            known = self._tables[id(table)] = (table, torch.where(table >= 0, table + shift, table))
        return known[1]

    def vector(self, slots: torch.Tensor) -> torch.Tensor:
        """A boolean vector over the old slots on the new ones; False on carriers."""
        out = torch.zeros(self.total, dtype=slots.dtype)
        for old, new in self._keep:
            out[new] = slots[old]
        return out


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_product(shape[i + 1 :]) for i in range(len(shape)))


def _product(numbers: tuple[int, ...]) -> int:
    total = 1
    for n in numbers:
        total *= n
    return total
