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
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, WeightMode

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
                sums = self.values[:, space.slots][:, here].sum(1).tolist()
                if any(sums):
                    parts.append((sums, self.exponents[space.index]))
        if not parts:
            return [0.0] * len(self.values), 0
        top = max(e for _, e in parts)
        totals = [
            math.fsum(math.ldexp(sums[k], max(e - top, -2000)) for sums, e in parts) for k in range(len(self.values))
        ]
        return totals, top

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

    def join(self, operand: Operand, parts: Sequence[torch.Tensor], reference: int) -> None:
        """Add contributions that are given with an exponent, and keep the mantissas in range."""
        written = self.spaces.of(operand)
        for k in written:
            here = self.values[:, self.graph.spaces[k].slots]
            if self.exponents[k] == reference:
                continue
            empty = not bool(here.any())
            if empty or self.exponents[k] < reference:
                if not empty:
                    here *= 2.0 ** (self.exponents[k] - reference)
                self.exponents[k] = reference
        back = self.scale(operand, reference, back=True)
        for component, part in zip(self.values, parts, strict=True):
            operand.accumulate(component, part if back is None else part * back)
        for k in written:
            self._rescale(k)

    def _rescale(self, k: int) -> None:
        here = self.values[:, self.graph.spaces[k].slots]
        top = float(here.abs().max()) if here.numel() else 0.0
        if not math.isfinite(top):
            raise MetricError("a sum over paths is not finite: a weight is infinite or not a number")
        if top > _LARGE or 0.0 < top < 1 / _LARGE:
            shift = max(math.frexp(top)[1], -1000)
            here *= 2.0**-shift
            self.exponents[k] += shift


def weighing(mode: WeightMode = "pattern") -> Through:
    """Every component is carried by itself, by the edges as numbers of the given mode."""
    semiring = Counting(mode=mode)
    return lambda op, parts, transpose: [carry(op, part, semiring, transpose=transpose) for part in parts]


def flow(graph: StructureGraph, start: torch.Tensor, through: Through, *, transpose: bool = False) -> Flow:
    """One sweep of (+, x) with components, along the edges or against them.

    Args:
        start: (components, slots) or (slots,), not negative.
        through: see `Through`; linear in its components.

    Raises MetricError on graphs with cycles, and where a value is not finite.
    """
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: its paths have no end")
    values = start.to(torch.float64, copy=True)
    state = Flow(graph, SpaceMap(graph), values.reshape(-1, graph.num_slots), [0] * len(graph.spaces))
    for op in reversed(graph.operators) if transpose else graph.operators:
        budget.check()
        source, target = (op.target, op.source) if transpose else (op.source, op.target)
        parts, reference = state.read(source)
        out = through(op, parts, transpose)
        if graph.live is not None and any(graph.meets_dead_slots(op)):
            live = target.gather(graph.live, False)  # what is no unit gets nothing, and so sends nothing
            out = [part * live for part in out]
        state.join(target, out, reference)
    return state


def from_sources(graph: StructureGraph, mode: WeightMode = "pattern") -> Flow:
    """Sum over the paths from the sources to each unit of the product of edge values."""
    return flow(graph, graph.is_source, weighing(mode))


def to_outputs(graph: StructureGraph, mode: WeightMode = "pattern") -> Flow:
    """Sum over the paths from each unit to the outputs of the product of edge values."""
    return flow(graph, graph.is_output, weighing(mode), transpose=True)


def log_total(graph: StructureGraph, mode: WeightMode = "pattern") -> float:
    """Natural logarithm of the sum over all paths from sources to outputs; -inf where there is none."""
    (total,), exponent = from_sources(graph, mode).totals(graph.is_output)
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
