"""Exact numbers of paths, however large: sweeps from both ends that meet, on digits in float64.

A number of paths is kept as digits to the base 2**w, each a vector of its own. What edges do is linear, so every
digit runs through the kernel for sums of float64 by itself; w leaves so much room below 2**53 that all these sums
are exact whole numbers, and digits that grow too large are carried over. A sweep from the sources and one against
the edges from the outputs meet inside the network: a path is a part before the meeting and a part behind it, so the
count is the inner product of both at the spaces in between, and either half needs half the digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deepstruct.engine import budget, native
from deepstruct.engine.semiring import Counting, fan_in
from deepstruct.engine.stream import Locator, last_uses, row_major
from deepstruct.engine.sweeps import spread
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Separable, Sparse

_COUNT = Counting()
_BITS = 53  # float64 holds every whole number up to 2**53
_PIECE = 20  # bits of a factor: a product has 40, and 2**13 of them add up exactly
_RUN = 1 << 13
_BLOCK = 1 << 16  # slots that are multiplied at once


def path_count(graph: StructureGraph) -> int:
    """Number of paths from sources to outputs, as an exact integer. Raises MetricError on graphs with cycles."""
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: its paths have no end")
    locator, operators = Locator(graph), graph.operators
    ends, untouched = last_uses(locator, operators, graph.spaces)
    begins, _ = last_uses(locator, operators[::-1], graph.spaces)
    begins.reverse()
    ahead, back = _Half(locator, graph.is_source, False), _Half(locator, graph.is_output, True)
    total = sum(ahead.finish(k, graph.is_output) for k in untouched)
    low, high = 0, len(operators)
    parts = _between_scores(graph, locator, len(operators))
    while parts:  # the half with fewer digits goes on
        if ahead.cost <= back.cost:
            low = parts.pop(0)
            for place in range(ahead.place, low):
                ahead.run(operators[place])
                total += sum(ahead.finish(k, graph.is_output) for k in ends[place])
            ahead.place = low
        else:
            parts.pop()
            start = parts[-1] if parts else low
            for place in range(high - 1, start - 1, -1):
                back.run(operators[place])
                total += sum(back.finish(k, graph.is_source) for k in begins[place])
            high = start
    for k in {*ahead.digits, *back.digits}:
        total += _inner(ahead.settled(k), back.settled(k), ahead.width, back.width)
    return total


def _between_scores(graph: StructureGraph, locator: Locator, count: int) -> list[int]:
    """Places between operators where the halves may meet, ascending, the end included.

    Not where implicit scores are in use, whose carriers are no units to multiply.
    """
    allowed = [True] * (count + 1)
    wanted = {s.index for s in graph.score_spaces}
    if wanted:
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for place, op in enumerate(graph.operators):
            for k in {*locator.spaces(op.source), *locator.spaces(op.target)} & wanted:
                first.setdefault(k, place)
                last[k] = place
        for k, begin in first.items():
            allowed[begin + 1 : last[k] + 1] = [False] * (last[k] - begin)
    return [place for place in range(1, count + 1) if allowed[place]]


class _Half:
    """One sweep on digits: those of a space appear with its first value."""

    def __init__(self, locator: Locator, start: torch.Tensor, transpose: bool) -> None:
        self.locator, self.graph, self.start, self.transpose = locator, locator.graph, start, transpose
        self.fans = {id(op): fan(op, transpose) for op in self.graph.operators}
        room = 2**_BITS // (max(self.fans.values(), default=1) + 1)
        self.width = room.bit_length() - 1
        self.digits: dict[int, list[torch.Tensor]] = {}
        self.bound: dict[int, int] = {}  # no digit of the space is larger
        self.place = 0
        self.cost = 0  # digits that the next operator reads, at most

    def of(self, k: int) -> list[torch.Tensor]:
        """The digits of a space, the lowest first; none where all its numbers are zero."""
        if k not in self.digits:
            start = self.start[self.graph.spaces[k].slots]
            self.digits[k] = [start.to(torch.float64)] if bool(start.any()) else []
            self.bound[k] = len(self.digits[k])
        return self.digits[k]

    def run(self, op: EdgeOperator) -> None:
        """What one operator carries."""
        budget.check()
        source, target = (op.target, op.source) if self.transpose else (op.source, op.target)
        reads, writes = self.locator.spaces(source), self.locator.spaces(target)
        fan = self.fans[id(op)]
        count = max((len(self.of(k)) for k in reads), default=0)
        if count == 0:
            return
        for k in writes:
            self.of(k)
        most = max(self.bound[k] for k in reads)
        if fan * most + max((self.bound[k] for k in writes), default=0) > 2**_BITS:
            for k in {*reads, *writes}:
                self.settled(k)
            count = max(len(self.of(k)) for k in reads)
            most = max(self.bound[k] for k in reads)
        for digit in range(count):
            self._push(op, target, self._read(source, digit), digit)
        for k in writes:
            self.bound[k] += fan * most
        self.cost = max(count, self.cost)

    def _vector(self, k: int, digit: int) -> torch.Tensor:
        """A digit of a space that is written, made if it is not there yet."""
        mine = self.of(k)
        while len(mine) <= digit:
            mine.append(torch.zeros(self.graph.spaces[k].numel, dtype=torch.float64))
        return mine[digit]

    def _read(self, side: Operand, digit: int) -> torch.Tensor:
        inside = self.locator.inside(side)
        if inside is not None:
            return inside[1].gather(self.of(inside[0])[digit])
        out = torch.zeros(side.shape, dtype=torch.float64)
        for k, here, places in self.locator.pieces(side):
            if len(self.of(k)) > digit:
                out[here] = self.of(k)[digit][places]
        return out

    def _push(self, op: EdgeOperator, side: Operand, values: torch.Tensor, digit: int) -> None:
        inside = self.locator.inside(side)
        if inside is not None:
            slots = self._vector(inside[0], digit)
            spread(self.graph, op, values, slots, _COUNT, transpose=self.transpose, place=inside[1])
            return
        own = Operand.strided(side.shape, row_major(side.shape), 0)
        arrived = torch.zeros(side.numel, dtype=torch.float64)
        spread(self.graph, op, values, arrived, _COUNT, transpose=self.transpose, place=own)
        for k, here, places in self.locator.pieces(side):
            Operand.indexed(places).accumulate(self._vector(k, digit), arrived.view(side.shape)[here])

    def settled(self, k: int) -> list[torch.Tensor]:
        """The digits of a space, each below 2**width."""
        mine, base = self.of(k), float(2**self.width)
        if self.bound[k] < base:
            return mine
        place = 0
        while place < len(mine):
            here = mine[place]
            if not native.available():
                here.round_()  # a fast convolution may be off by 1e-7
            over = here.mul(1 / base).floor_()
            if place + 1 < len(mine):
                mine[place + 1].add_(over)
            elif float(over.max()) > 0:
                mine.append(over)
            here.sub_(over, alpha=base)
            place += 1
        self.bound[k] = 2**self.width - 1
        return mine

    def finish(self, k: int, where: torch.Tensor) -> int:
        """Sum of the numbers of a space over some slots; its digits go."""
        mask = where[self.graph.spaces[k].slots]
        amount = 0
        if bool(mask.any()):
            for place, digit in enumerate(self.settled(k)):
                amount += _sum(digit[mask]) << (place * self.width)
        self.digits.pop(k, None)
        self.bound.pop(k, None)
        return amount


def _sum(numbers: torch.Tensor) -> int:
    """Sum of whole numbers below 2**53, exact."""
    pieces = numbers.to(torch.int64).split(_BLOCK)
    low = sum(int((p & 0xFFFFFFFF).sum()) for p in pieces)
    return low + (sum(int((p >> 32).sum()) for p in pieces) << 32)


def _inner(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], wide: int, broad: int) -> int:
    """Inner product of two vectors of numbers given by digits to the bases 2**wide and 2**broad."""
    if not left or not right:
        return 0
    total = 0
    for start in range(0, left[0].numel(), _BLOCK):
        block = slice(start, start + _BLOCK)
        a, shift_a = _pieces([d[block] for d in left], wide)
        b, shift_b = _pieces([d[block] for d in right], broad)
        products = torch.bmm(a, b.transpose(1, 2)).to(torch.int64).sum(0).tolist()  # at most 8 runs: below 2**56
        for i, row in zip(shift_a, products, strict=True):
            total += sum(value << (i + j) for j, value in zip(shift_b, row, strict=True))
    return total


def _pieces(digits: Sequence[torch.Tensor], width: int) -> tuple[torch.Tensor, list[int]]:
    """Digits cut into pieces of few bits, (runs, pieces, slots of a run) float64, and the power of two of each."""
    size = digits[0].numel()
    runs = -(-size // _RUN)
    parts, shifts = [], []
    for place, digit in enumerate(digits):
        rest = digit.to(torch.int64)
        for low in range(0, width, _PIECE):
            parts.append((rest >> low) & ((1 << _PIECE) - 1))
            shifts.append(place * width + low)
    table = torch.zeros(len(parts), runs * _RUN, dtype=torch.float64)
    table[:, :size] = torch.stack(parts)
    return table.view(len(parts), runs, _RUN).transpose(0, 1).contiguous(), shifts


def fan(op: EdgeOperator, transpose: bool) -> int:
    """An upper bound of the terms that an operator adds to one slot of the side that it writes."""
    side = op.source if transpose else op.target
    return max(1, _edges(op, transpose)) * _repeats(side)


def _edges(op: EdgeOperator, transpose: bool) -> int:
    if isinstance(op, Identity):
        return 1
    if not transpose:
        return op.fan_in()
    if type(op) is Conv:
        taps = 1
        for n in op.kernel:
            taps *= n
        return taps * (op.target.shape[1] // op.groups)
    if isinstance(op, Matmul):
        return op.outer
    if isinstance(op, Separable):
        total = 1
        for table in op.axes:
            if table is not None and table.numel():
                total *= int(table.sum(0).max())
        return total
    if isinstance(op, Sparse):
        return int(torch.bincount(op.rows).max()) if op.rows.numel() else 0
    return fan_in(op, True)


def _repeats(side: Operand) -> int:
    """How often one slot may occur among the elements of an operand."""
    if side.injective or side.numel == 0:
        return 1
    if side.table is not None:
        units = side.table[side.table >= 0]
        return int(torch.unique(units, return_counts=True)[1].max()) if units.numel() else 1
    assert side.stride is not None
    shape = tuple(1 if step == 0 else n for n, step in zip(side.shape, side.stride, strict=True))
    once = Operand.strided(shape, side.stride, side.offset)
    return side.numel // once.numel if once.injective else side.numel
