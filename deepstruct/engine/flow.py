"""Sums over all paths that neither overflow nor vanish: linear sweeps with a power of two for every space.

Numbers of paths grow beyond float64 in deep networks, and products of small weights fall below it. Here the
values of a space are kept as mantissas times 2**e with one exponent e per space, so that numbers within one
space may differ by a factor of 2**1400 and those of different spaces by any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from deepstruct.engine import budget
from deepstruct.engine.semiring import Counting
from deepstruct.engine.steps import SpaceMap
from deepstruct.engine.stream import Locator, last_uses
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, WeightMode
from deepstruct.structure.space import Space

Begin = Callable[[Space, torch.Tensor], None]  # writes what a space starts with into its zeros
_LARGE = 2.0**400  # beyond this the values of a space are scaled back to about 1; products of two stay finite

# what the edges of an operator make of the components of a value: (operator, components, transpose) -> components
Through = Callable[[EdgeOperator, Sequence[torch.Tensor], bool], Sequence[torch.Tensor]]


@dataclass
class Flow:
    """Vectors over the slots, value = mantissa * 2**exponent[space].

    values: (components, slots) float64. exponents: one int per space.
    """

    graph: StructureGraph
    spaces: SpaceMap
    values: torch.Tensor
    exponents: list[int]

    @property
    def mantissa(self) -> torch.Tensor:
        """The first component."""
        return self.values[0]

    def log(self) -> torch.Tensor:
        """Natural logarithm of the first component per slot; -inf where it is zero."""
        out = self.values[0].log()
        for space in self.graph.spaces:
            if self.exponents[space.index]:
                out[space.slots] += self.exponents[space.index] * math.log(2)
        return out

    def totals(self, where: torch.Tensor) -> tuple[list[float], int]:
        """Sums of the components over the slots in `where` (boolean): mantissas, and one exponent for all."""
        parts = []
        for space in self.graph.spaces:
            here = where[space.slots]
            if bool(here.any()):
                parts.append((self.values[:, space.slots][:, here].sum(1).tolist(), self.exponents[space.index]))
        return _joined(parts, len(self.values))

    def read(self, operand: Operand) -> tuple[list[torch.Tensor], int]:
        """The components at the elements of an operand, brought to one exponent, and that exponent."""
        reference = max((self.exponents[k] for k in self.spaces.of(operand)), default=0)
        scale = self.scale(operand, reference)
        parts = [operand.gather(component) for component in self.values]
        return (parts if scale is None else [part * scale for part in parts]), reference

    def scale(self, operand: Operand, reference: int, *, back: bool = False) -> torch.Tensor | None:
        """2**(e - reference), e the exponent of an element's space, per element or for all; None for 1.

        `back` gives 2**(reference - e): what takes values from the reference to the exponents of their spaces.
        """
        sign = -1 if back else 1
        shifts = {sign * (self.exponents[k] - reference) for k in self.spaces.of(operand)}
        if shifts <= {0}:
            return None
        if len(shifts) == 1:
            return torch.tensor(2.0 ** min(shifts.pop(), 1000), dtype=torch.float64)
        powers = [2.0 ** min(sign * (e - reference), 1000) for e in self.exponents]
        index = operand.index()
        return torch.tensor(powers, dtype=torch.float64)[self.spaces.of_slot[index.clamp(min=0)].to(torch.int64)]


def weighing(mode: WeightMode = "pattern") -> Through:
    """Every component is carried by itself, by the edges as numbers of the given mode."""
    semiring = Counting(mode=mode)
    return lambda op, parts, transpose: [carry(op, part, semiring, transpose=transpose) for part in parts]


class _Running:
    """The spaces in use of a flow: components (components, slots of the space) and one exponent each."""

    def __init__(self, locator: Locator, start: Begin, components: int) -> None:
        self.locator, self.start, self.components = locator, start, components
        self.values: dict[int, torch.Tensor] = {}
        self.exponents: dict[int, int] = {}

    def of(self, k: int) -> torch.Tensor:
        """The mantissas of a space."""
        if k not in self.values:
            space = self.locator.graph.spaces[k]
            self.values[k] = torch.zeros(self.components, space.numel, dtype=torch.float64)
            self.exponents[k] = 0
            self.start(space, self.values[k])
        return self.values[k]

    def drop(self, k: int) -> None:
        self.values.pop(k, None)
        self.exponents.pop(k, None)

    def read(self, operand: Operand) -> tuple[list[torch.Tensor], int]:
        """The components at the elements of an operand, and their exponent."""
        inside = self.locator.inside(operand)
        if inside is not None:
            k, place = inside
            return [place.gather(component) for component in self.of(k)], self.exponents[k]
        for k in self.locator.spaces(operand):
            self.of(k)
        reference = max((self.exponents[k] for k in self.locator.spaces(operand)), default=0)
        out = torch.zeros(self.components, *operand.shape, dtype=torch.float64)
        for k, here, places in self.locator.pieces(operand):
            out[:, here] = self.of(k)[:, places] * _power(self.exponents[k] - reference)
        return list(out), reference

    def join(self, operand: Operand, parts: Sequence[torch.Tensor], reference: int) -> None:
        """Add contributions that are given with an exponent, and keep the mantissas in range."""
        inside = self.locator.inside(operand)
        if inside is not None:
            self._add(*inside, parts, reference)
            return
        for k, here, places in self.locator.pieces(operand):
            self._add(k, Operand.indexed(places), [part.expand(operand.shape)[here] for part in parts], reference)

    def _add(self, k: int, place: Operand, parts: Sequence[torch.Tensor], reference: int) -> None:
        here = self.of(k)
        if self.exponents[k] != reference:
            empty = not bool(here.any())
            if not empty and self.exponents[k] < reference:
                here *= 2.0 ** (self.exponents[k] - reference)
            if empty or self.exponents[k] < reference:
                self.exponents[k] = reference
        back = _power(reference - self.exponents[k])
        for component, part in zip(here, parts, strict=True):
            place.accumulate(component, part if back == 1 else part * back)
        low, high = (float(v) for v in here.aminmax()) if here.numel() else (0.0, 0.0)
        top = max(-low, high)
        if not math.isfinite(top):
            raise MetricError("a sum over paths is not finite: a weight is infinite or not a number")
        if top > _LARGE or 0.0 < top < 1 / _LARGE:
            shift = max(math.frexp(top)[1], -1000)
            here *= 2.0**-shift
            self.exponents[k] += shift


def _power(exponent: int) -> float:
    return 2.0 ** min(exponent, 1000)


def flow(graph: StructureGraph, start: torch.Tensor, through: Through, *, transpose: bool = False) -> Flow:
    """One sweep of (+, x) with components, along the edges or against them.

    Args:
        start: (components, slots) or (slots,), not negative.
        through: see `Through`; linear in its components.

    Raises MetricError on graphs with cycles, and where a value is not finite.
    """
    given = start.reshape(-1, graph.num_slots)
    values = vectors.full(given.numel(), torch.float64).view(given.shape)
    exponents = [0] * len(graph.spaces)

    def begin(space: Space, into: torch.Tensor) -> None:
        into.copy_(given[:, space.slots])

    def visit(space: Space, mantissas: torch.Tensor, exponent: int) -> None:
        values[:, space.slots] = mantissas
        exponents[space.index] = exponent

    _flow(graph, begin, len(given), through, visit, transpose)
    return Flow(graph, SpaceMap(graph), values, exponents)


def flow_totals(graph: StructureGraph, components: int, through: Through) -> tuple[list[float], int]:
    """Sums over the outputs of the components of a flow whose first component is 1 on the sources, the others 0.

    Mantissas, and one exponent for all; no vector over all slots is made. Raises as `flow`.
    """
    parts: list[tuple[list[float], int]] = []

    def begin(space: Space, into: torch.Tensor) -> None:
        if space.is_source:
            into[0] = graph.is_source[space.slots]

    def visit(space: Space, mantissas: torch.Tensor, exponent: int) -> None:
        here = graph.is_output[space.slots]
        if bool(here.any()):
            parts.append((mantissas[:, here].sum(1).tolist(), exponent))

    _flow(graph, begin, components, through, visit, False)
    return _joined(parts, components)


def _flow(
    graph: StructureGraph, begin: Begin, components: int, through: Through,
    visit: Callable[[Space, torch.Tensor, int], None], transpose: bool,
) -> None:  # fmt: skip
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: its paths have no end")
    locator, operators = Locator(graph), graph.operators[::-1] if transpose else graph.operators
    running = _Running(locator, begin, components)
    ends, untouched = last_uses(locator, operators, graph.spaces)

    def show(spaces: Sequence[int]) -> None:
        for k in spaces:
            mantissas = running.of(k)
            visit(graph.spaces[k], mantissas, running.exponents[k])
            running.drop(k)

    show(untouched)
    for op, done in zip(operators, ends, strict=True):
        budget.check()
        source, target = (op.target, op.source) if transpose else (op.source, op.target)
        parts, reference = running.read(source)
        out = through(op, parts, transpose)
        if graph.live is not None and any(graph.meets_dead_slots(op)):
            live = target.gather(graph.live, False)  # what is no unit gets nothing, and so sends nothing
            out = [part * live for part in out]
        running.join(target, out, reference)
        show(done)


def _joined(parts: Sequence[tuple[list[float], int]], components: int) -> tuple[list[float], int]:
    """Sums of components that are given with exponents of their own: mantissas, and one exponent for all."""
    parts = [(sums, e) for sums, e in parts if any(sums)]
    if not parts:
        return [0.0] * components, 0
    top = max(e for _, e in parts)
    totals = [math.fsum(math.ldexp(sums[k], max(e - top, -2000)) for sums, e in parts) for k in range(components)]
    return totals, top


def from_sources(graph: StructureGraph, mode: WeightMode = "pattern") -> Flow:
    """Sum over the paths from the sources to each unit of the product of edge values."""
    return flow(graph, graph.is_source, weighing(mode))


def to_outputs(graph: StructureGraph, mode: WeightMode = "pattern") -> Flow:
    """Sum over the paths from each unit to the outputs of the product of edge values."""
    return flow(graph, graph.is_output, weighing(mode), transpose=True)


def log_total(graph: StructureGraph, mode: WeightMode = "pattern") -> float:
    """Natural logarithm of the sum over all paths from sources to outputs; -inf where there is none."""
    (total,), exponent = flow_totals(graph, 1, weighing(mode))
    return -math.inf if total <= 0 else math.log(total) + exponent * math.log(2)


def path_shares(graph: StructureGraph, mode: WeightMode = "pattern") -> torch.Tensor:
    """float64 per slot: the share of the paths from sources to outputs that run through the unit.

    With mode "abs" or "square" a path counts with the product of its edge values. It is also the share that
    would be lost with the unit. Raises MetricError where no path leads from a source to an output.
    """
    graph.need_units("the share of paths through a node")
    ahead, back = from_sources(graph, mode), to_outputs(graph, mode)
    (total,), exponent = ahead.totals(graph.is_output)
    if total <= 0:
        raise MetricError("no path leads from an input to an output")
    share = ahead.mantissa * back.mantissa
    for space in graph.spaces:
        shift = ahead.exponents[space.index] + back.exponents[space.index] - exponent
        here = share[space.slots]
        here /= total
        for half in (shift // 2, shift - shift // 2):  # in two steps: 2**shift alone may be out of range
            here *= 2.0 ** min(half, 1000)
    return share
