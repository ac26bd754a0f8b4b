"""Sweeps that keep the vector of a space only while it is in use.

A sweep that ends in a few numbers needs no vector over all slots. Here a space's vector appears when an operator
first writes or reads it, is shown to the caller once all operators that touch it have run, and then goes: the
memory is that of the widest cut through the network, and much of it stays in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from deepstruct.engine import budget
from deepstruct.engine.semiring import Semiring
from deepstruct.engine.steps import SpaceMap
from deepstruct.engine.sweeps import spread
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator
from deepstruct.structure.space import Space

Visit = Callable[[Space, torch.Tensor], None]
Start = Callable[[Space], "torch.Tensor | None"]


class Locator:
    """Which spaces operands lie in, and where in them."""

    def __init__(self, graph: StructureGraph) -> None:
        self.graph, self.map = graph, SpaceMap(graph)
        self._inside: dict[int, tuple[Operand, tuple[int, Operand] | None]] = {}

    def spaces(self, operand: Operand) -> tuple[int, ...]:
        """Indices of the spaces that hold the units of an operand (those without slots left out)."""
        return tuple(k for k in self.map.of(operand) if self.graph.spaces[k].numel)

    def inside(self, operand: Operand) -> tuple[int, Operand] | None:
        """The space that holds all units of an operand, and the operand over that space's own vector.

        None for an operand without units, or with units in several spaces.
        """
        known = self._inside.get(id(operand))
        if known is None:
            known = self._inside[id(operand)] = (operand, self._find(operand))  # kept, so that its id stays taken
        return known[1]

    def _find(self, operand: Operand) -> tuple[int, Operand] | None:
        spaces = self.spaces(operand)
        if len(spaces) != 1:
            return None
        offset = self.graph.spaces[spaces[0]].offset
        if operand.table is None:
            return spaces[0], replace(operand, offset=operand.offset - offset)
        return spaces[0], Operand.indexed(torch.where(operand.table >= 0, operand.table - offset, operand.table))

    def pieces(self, operand: Operand) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """For each space: its index, a boolean over the elements that lie in it, and their places in it."""
        index = operand.index()
        for k in self.spaces(operand):
            slots = self.graph.spaces[k].slots
            here = (index >= slots.start) & (index < slots.stop)
            yield k, here, index[here] - slots.start


def last_uses(
    locator: Locator, operators: Sequence[EdgeOperator], spaces: Sequence[Space]
) -> tuple[list[list[int]], list[int]]:
    """Per operator the spaces that no later one touches, and the spaces that none touches at all."""
    last = [-1] * len(spaces)
    for place, op in enumerate(operators):
        for k in (*locator.spaces(op.source), *locator.spaces(op.target)):
            last[k] = place
    ends: list[list[int]] = [[] for _ in operators]
    for k, place in enumerate(last):
        if place >= 0:
            ends[place].append(k)
    return ends, [k for k, place in enumerate(last) if place < 0 and spaces[k].numel]


class Window:
    """The vectors of the spaces in use, in one semiring; a space starts with what `start` gives for it."""

    def __init__(self, locator: Locator, semiring: Semiring, start: Start) -> None:
        self.locator, self.graph, self.semiring, self.start = locator, locator.graph, semiring, start
        self.values: dict[int, torch.Tensor] = {}

    def vector(self, k: int) -> torch.Tensor:
        """One value per slot of a space."""
        known = self.values.get(k)
        if known is None:
            space = self.graph.spaces[k]
            begin = self.start(space)
            known = self.values[k] = (
                torch.full((space.numel,), self.semiring.zero, dtype=self.semiring.dtype)
                if begin is None else self.semiring.enter(begin)
            )  # fmt: skip
        return known

    def read(self, operand: Operand) -> torch.Tensor:
        """The values at the elements of an operand, `zero` where there is no unit. May be a view."""
        inside = self.locator.inside(operand)
        if inside is not None:
            return self.semiring.read(self.vector(inside[0]), inside[1])
        out = torch.full(operand.shape, self.semiring.zero, dtype=self.semiring.dtype)
        for k, here, places in self.locator.pieces(operand):
            out[here] = self.vector(k)[places]
        return out

    def push(self, op: EdgeOperator, values: torch.Tensor, transpose: bool) -> None:
        """Join what the edges of an operator make of `values`."""
        side = op.source if transpose else op.target
        inside = self.locator.inside(side)
        if inside is not None:
            spread(self.graph, op, values, self.vector(inside[0]), self.semiring, transpose=transpose, place=inside[1])
            return
        # the elements first, in a vector of their own; then each to its space
        shape = side.shape
        own = Operand.strided(shape, row_major(shape), 0)
        arrived = torch.full((side.numel,), self.semiring.zero, dtype=self.semiring.dtype)
        spread(self.graph, op, values, arrived, self.semiring, transpose=transpose, place=own)
        for k, here, places in self.locator.pieces(side):
            self.semiring.join(self.vector(k), Operand.indexed(places), arrived.view(shape)[here])

    def join(self, operand: Operand, values: torch.Tensor) -> None:
        """Add contributions to the slots of an operand."""
        inside = self.locator.inside(operand)
        if inside is not None:
            self.semiring.join(self.vector(inside[0]), inside[1], values)
            return
        for k, here, places in self.locator.pieces(operand):
            self.semiring.join(self.vector(k), Operand.indexed(places), values.expand(operand.shape)[here])

    def drop(self, k: int) -> None:
        self.values.pop(k, None)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a tensor of this shape without gaps."""
    stride, step = [], 1
    for n in reversed(shape):
        stride.append(step)
        step *= n
    return tuple(reversed(stride))


def stream(
    graph: StructureGraph, start: torch.Tensor | Start, semiring: Semiring, visit: Visit, *, transpose: bool = False
) -> None:
    """A sweep (see `sweeps.sweep`) that shows the values of each space once, and keeps none.

    Args:
        start: one value per slot, or a function that gives those of a space (None: all zero).
        visit: called with every space that has slots and its values, in the order in which they are complete.

    Raises MetricError on graphs with cycles.
    """
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: one sweep does not reach everything")
    operators = graph.operators[::-1] if transpose else graph.operators
    locator = Locator(graph)
    begin: Start = (lambda space: start[space.slots]) if isinstance(start, torch.Tensor) else start
    window = Window(locator, semiring, begin)
    ends, untouched = last_uses(locator, operators, graph.spaces)

    def show(spaces: Sequence[int]) -> None:
        for k in spaces:
            visit(graph.spaces[k], semiring.leave(window.vector(k)))
            window.drop(k)

    show(untouched)
    for op, done in zip(operators, ends, strict=True):
        budget.check()
        window.push(op, window.read(op.target if transpose else op.source), transpose)
        show(done)


def at_outputs(graph: StructureGraph, start: torch.Tensor | Start, semiring: Semiring) -> torch.Tensor:
    """The values of the outputs after a sweep along the edges, one after the other in slot order."""
    found: dict[int, torch.Tensor] = {}

    def visit(space: Space, values: torch.Tensor) -> None:
        here = graph.is_output[space.slots]
        if bool(here.any()):
            found[space.index] = values[here]

    stream(graph, start, semiring, visit)
    parts = [found[k] for k in sorted(found)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=semiring.dtype)
