"""One step along the edges: what every unit gets from its direct neighbors, and nothing from further away.

A sweep carries values along whole paths; a step moves them by one edge of the graph. Units that are part of a
sum are no nodes: their in-edges belong to the sum, so what arrives at a part is handed on to the sum, and
against the edges a part shows what its sum holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch

from deepstruct.engine.semiring import Semiring
from deepstruct.engine.sweeps import apply
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity


class SpaceMap:
    """Which spaces an operand reads or writes."""

    def __init__(self, graph: StructureGraph) -> None:
        self.graph = graph
        self._offsets = torch.tensor([s.offset for s in graph.spaces], dtype=torch.int64)
        self._known: dict[int, tuple[Operand, tuple[int, ...]]] = {}

    def of(self, operand: Operand) -> tuple[int, ...]:
        """Indices of the spaces that hold its units, in order (between strides, perhaps one too many)."""
        known = self._known.get(id(operand))
        if known is None:
            known = self._known[id(operand)] = (operand, self._find(operand))  # the operand is kept, so its id is too
        return known[1]

    def _find(self, operand: Operand) -> tuple[int, ...]:
        if operand.numel == 0:
            return ()
        if operand.stride is not None:
            last = operand.offset + sum((n - 1) * step for n, step in zip(operand.shape, operand.stride, strict=True))
            low, high = self._place(torch.tensor([operand.offset, last])).tolist()
            return tuple(range(low, high + 1))
        assert operand.table is not None
        units = operand.table[operand.table >= 0]
        seen = torch.zeros(len(self._offsets), dtype=torch.bool)
        seen[self._place(units)] = True
        return tuple(seen.nonzero().reshape(-1).tolist())

    def _place(self, slots: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(self._offsets, slots, right=True) - 1

    @cached_property
    def of_slot(self) -> torch.Tensor:
        """int32 per slot: the index of its space."""
        sizes = torch.tensor([s.numel for s in self.graph.spaces], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), sizes)


class Steps:
    """Single steps through one graph, in any semiring; operators that read nothing new are skipped."""

    def __init__(self, graph: StructureGraph) -> None:
        self.graph, self.spaces = graph, SpaceMap(graph)
        self.everywhere = frozenset(s.index for s in graph.spaces)
        self._not_nodes = (~(graph.is_node | graph.is_carrier)).nonzero().reshape(-1)
        self._parts: torch.Tensor | None = None
        if graph.parent is not None:
            self._parts = (graph.parent != torch.arange(graph.num_slots)).nonzero().reshape(-1)

    def step(
        self, x: torch.Tensor, semiring: Semiring, *, transpose: bool = False, active: Iterable[int] | None = None
    ) -> tuple[torch.Tensor, set[int]]:
        """What the nodes get from their in-neighbors (out-neighbors when transposed).

        Args:
            x: one value per slot, `semiring.zero` on slots that are no nodes.
            active: spaces outside which x is zero; None: anywhere.

        Returns:
            One value per slot, zero on slots that are no nodes, and the spaces outside which it is zero.
        """
        here = self.everywhere if active is None else frozenset(active)
        y = torch.full((self.graph.num_slots,), semiring.zero, dtype=semiring.dtype)
        touched = self._against(x, y, semiring, here) if transpose else self._along(x, y, semiring, here)
        if self._not_nodes.numel():
            y[self._not_nodes] = torch.as_tensor(semiring.zero, dtype=semiring.dtype)
        return y, touched

    def _along(self, x: torch.Tensor, y: torch.Tensor, semiring: Semiring, active: frozenset[int]) -> set[int]:
        touched: set[int] = set()
        for op in self.graph.operators:
            reads, writes = self.spaces.of(op.source), self.spaces.of(op.target)
            if isinstance(op, Identity) and op.fused is not False and not touched.isdisjoint(reads):
                self._hand_on(op, y, semiring)
                touched.update(writes)
            if active.isdisjoint(reads) or (isinstance(op, Identity) and op.fused is True):
                continue
            semiring.join(y, op.target, apply(self.graph, op, x, semiring))
            touched.update(writes)
        return touched

    def _hand_on(self, op: Identity, y: torch.Tensor, semiring: Semiring) -> None:
        """The sum takes over what has arrived at its part."""
        arrived = semiring.read(y, op.source)
        if isinstance(op.fused, torch.Tensor):
            arrived = torch.where(op.fused, arrived, torch.as_tensor(semiring.zero, dtype=semiring.dtype))
        semiring.join(y, op.target, arrived.clone())

    def _against(self, x: torch.Tensor, y: torch.Tensor, semiring: Semiring, active: frozenset[int]) -> set[int]:
        if self._parts is not None:
            x = self.spread(x)
            active = active | self._spaces_of_parts(active)
        touched: set[int] = set()
        for op in self.graph.operators:
            if active.isdisjoint(self.spaces.of(op.target)) or (isinstance(op, Identity) and op.fused is True):
                continue
            semiring.join(y, op.source, apply(self.graph, op, x, semiring, transpose=True))
            touched.update(self.spaces.of(op.source))
        return touched

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """A vector over the slots with every part showing the value of its sum."""
        if self._parts is None:
            return x
        assert self.graph.parent is not None
        x = x.clone()
        x[self._parts] = x[self.graph.parent[self._parts]]
        return x

    @cached_property
    def _part_spaces(self) -> list[tuple[int, frozenset[int]]]:
        """(space with parts, spaces of their sums)."""
        assert self._parts is not None
        assert self.graph.parent is not None
        part = self.spaces.of_slot[self._parts].to(torch.int64)
        whole = self.spaces.of_slot[self.graph.parent[self._parts]].to(torch.int64)
        count = len(self.graph.spaces)
        pairs = torch.unique(part * count + whole).tolist()
        return [(pair // count, frozenset([pair % count])) for pair in pairs]

    def _spaces_of_parts(self, active: frozenset[int]) -> frozenset[int]:
        return frozenset(part for part, wholes in self._part_spaces if not active.isdisjoint(wholes))

    def holding(self, x: torch.Tensor, spaces: Iterable[int], zero: float = 0) -> set[int]:
        """Which of the spaces hold a value that is not `zero`."""
        return {k for k in spaces if bool((x[self.graph.spaces[k].slots] != zero).any())}


def is_edge(op: EdgeOperator) -> torch.Tensor | None:
    """Elements of an identity whose edge is one of the graph; None where all edges of the operator are."""
    return op.kept() if isinstance(op, Identity) else None
