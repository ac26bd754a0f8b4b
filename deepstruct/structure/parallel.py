"""Parallel edges, counted where they can be: most operators cannot have any, and are never written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    KeyScores,
    Matmul,
    QueryScores,
    ScoreOutputs,
    Separable,
)

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

# at most one edge between two elements
_SIMPLE = (Conv, Identity, KeyScores, Matmul, QueryScores, ScoreOutputs, Separable)
_BYTES_PER_EDGE = 64  # the pair as one key, what it is made from, and the copies that sorting makes


def count_parallel(graph: StructureGraph, max_bytes: int) -> int | None:
    """Edges beyond the first between the same two nodes; None where counting them takes more than `max_bytes`.

    Only operators that may share a pair of nodes are written down: those that read or write a node at several
    elements, and those that read a common node and write a common node.
    """
    sides = _Sides(graph)
    active = [op for op, edges in zip(graph.operators, graph.operator_edges, strict=True) if edges]
    groups = _groups([sides.reach(op) for op in active])
    total = 0
    for group in groups:
        members = [active[k] for k in group]
        if len(members) == 1:
            if sides.simple(members[0]):
                continue
        elif not sides.meet(members) and all(sides.simple(op) for op in members):
            continue
        found = _write_down(graph, members, max_bytes)
        if found is None:
            return None
        total += found
    return total


class _Reach(NamedTuple):
    """Lowest and highest slot that an operator reads, and lowest and highest node that it writes."""

    source: tuple[int, int]
    target: tuple[int, int]


class _Sides:
    """Which slots the operators of a graph read, and which nodes they write (a part of a sum is the sum)."""

    def __init__(self, graph: StructureGraph) -> None:
        self._graph = graph
        self.mark = torch.zeros(graph.num_slots, dtype=torch.bool)
        # ranges that hold every slot that is part of a later sum
        fusing = (op for op in graph.operators if isinstance(op, Identity) and op.fused is not False)
        self._parts = [op.source.span() for op in fusing]

    def reach(self, op: EdgeOperator) -> _Reach:
        if self._own_nodes(op.target):
            return _Reach(op.source.span(), op.target.span())
        nodes = self.nodes(op.target)
        return _Reach(op.source.span(), (int(nodes.min()), int(nodes.max())) if nodes.numel() else (0, -1))

    def _own_nodes(self, target: Operand) -> bool:
        """Whether no slot of the range is part of a later sum."""
        low, high = target.span()
        return all(high < first or last < low for first, last in self._parts)

    def nodes(self, target: Operand) -> torch.Tensor:
        """The node of each element, those without one left out."""
        return self._graph.sums_of(_slots(target))

    def simple(self, op: EdgeOperator) -> bool:
        """Whether no two edges of an operator can join the same two nodes."""
        if not isinstance(op, _SIMPLE):
            return False
        if not (op.source.injective or self._distinct(_slots(op.source))):
            return False
        return (op.target.injective and self._own_nodes(op.target)) or self._distinct(self.nodes(op.target))

    def _distinct(self, index: torch.Tensor) -> bool:
        self.mark[index] = True
        found = int(self.mark[int(index.min()) : int(index.max()) + 1].sum()) if index.numel() else 0
        self.mark[index] = False
        return found == index.numel()

    def meet(self, ops: list[EdgeOperator]) -> bool:
        """Whether any two of the operators read a common slot and write a common node."""
        for k, first in enumerate(ops):
            for second in ops[k + 1 :]:
                if self._overlap(_slots(first.source), _slots(second.source)) and self._overlap(
                    self.nodes(first.target), self.nodes(second.target)
                ):
                    return True
        return False

    def _overlap(self, first: torch.Tensor, second: torch.Tensor) -> bool:
        self.mark[first] = True
        found = bool(self.mark[second].any())
        self.mark[first] = False
        return found


def _slots(operand: Operand) -> torch.Tensor:
    index = operand.index().reshape(-1)
    return index if operand.table is None else index[index >= 0]


def _groups(reaches: list[_Reach]) -> list[list[int]]:
    """Operators joined where both their ranges of slots overlap: no pair of nodes is shared between groups."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not reaches:
        return []
    low_s, high_s = np.array([r.source for r in reaches]).T
    low_t, high_t = np.array([r.target for r in reaches]).T
    rows, columns = [], []
    for k in range(len(reaches)):
        both = (low_s <= high_s[k]) & (low_s[k] <= high_s) & (low_t <= high_t[k]) & (low_t[k] <= high_t)
        (others,) = both.nonzero()
        rows.append(np.full(len(others), k))
        columns.append(others)
    row, column = np.concatenate(rows), np.concatenate(columns)
    size = len(reaches)
    count, label = connected_components(coo_array((np.ones(len(row)), (row, column)), shape=(size, size)))
    return [np.flatnonzero(label == k).tolist() for k in range(count)]


def _write_down(graph: StructureGraph, ops: list[EdgeOperator], max_bytes: int) -> int | None:
    wanted = {id(op) for op in ops}
    edges = sum(n for n, op in zip(graph.operator_edges, graph.operators, strict=True) if id(op) in wanted)
    if edges * _BYTES_PER_EDGE > max_bytes:
        return None
    numbers = _Numbers(graph)
    keys = []
    for op in ops:
        source, target = numbers.of(op.source), numbers.of(op.target, sums=True)
        for piece in op.edges():
            s, t = source[piece.source], target[piece.target]
            keep = (s >= 0) & (t >= 0)
            keys.append(s[keep] * numbers.end + t[keep])
    joined = torch.cat(keys).sort().values
    return int((joined[1:] == joined[:-1]).sum())


class _Numbers:
    """A number for each node: its slot, or beyond the slots for an implicit score. No vector over all slots is made."""

    def __init__(self, graph: StructureGraph) -> None:
        self._graph, self.end = graph, graph.num_slots
        self._first: dict[int, int] = {}  # by the offset of their space
        for space in graph.score_spaces:
            assert space.scores is not None
            self._first[space.offset] = self.end
            self.end += space.scores.heads * space.scores.rows * space.scores.columns

    def of(self, side: Operand, *, sums: bool = False) -> torch.Tensor:
        """Number of each element, flat, as `op.edges()` numbers them; -1 where there is no unit."""
        if side.scores is not None:
            kept = side.scores.kept().reshape(-1)
            return torch.where(kept, torch.arange(kept.numel()) + self._first[side.offset], -1)
        slots = side.index().reshape(-1)
        slots = self._graph.sums_of(slots) if sums else slots
        return torch.where((slots >= 0) & self._graph.is_node[slots.clamp(min=0)], slots, -1)
