"""Vectors over the slots that many metrics share: degrees, reach, lengths, exact path counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch

from deepstruct.engine import budget
from deepstruct.engine.contractions import of_ones
from deepstruct.engine.exact import fan, path_count
from deepstruct.engine.semiring import BOOLEAN, Counting, PathLength, Semiring
from deepstruct.engine.steps import SpaceMap
from deepstruct.engine.stream import Locator, Window, at_outputs, last_uses
from deepstruct.engine.sweeps import apply, spread, sweep
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity, WeightMode
from deepstruct.structure.space import Space

__all__ = [
    "degree_blocks", "in_degree", "log2_path_count", "out_degree", "output_lengths", "path_count", "path_lengths",
    "path_norm", "paths_from_sources", "paths_to_outputs", "reached", "reaching", "strength", "synflow",
]  # fmt: skip


def in_degree(graph: StructureGraph, *, compact: bool = False) -> torch.Tensor:
    """float64 per slot: number of edges into the unit, parallel ones counted; A 1 for every operator.

    Args:
        compact: float32 where that is exact, for the sum of two degrees as well.
    """
    return _degree(graph, False, compact)


def out_degree(graph: StructureGraph, *, compact: bool = False) -> torch.Tensor:
    """float64 per slot: number of edges out of the unit, parallel ones counted; A' 1 for every operator.

    Args:
        compact: float32 where that is exact, for the sum of two degrees as well.
    """
    return _degree(graph, True, compact)


def _degree(graph: StructureGraph, transpose: bool, compact: bool) -> torch.Tensor:
    count = _counter(_most(graph, transpose=transpose))
    degree = vectors.full(graph.num_slots, count.dtype)

    def join(side: Operand, values: torch.Tensor) -> None:
        count.join(degree, side, values)

    def push(op: EdgeOperator, values: torch.Tensor) -> None:
        spread(graph, op, values, degree, count, transpose=transpose)

    for op in graph.operators:
        _add_degrees(graph, op, transpose, count, lambda side: side.gather(degree), join, push)
    degree.round_()
    return degree if compact else vectors.converted(degree, torch.float64)


def degree_blocks(graph: StructureGraph) -> Iterator[tuple[Space, torch.Tensor, torch.Tensor]]:
    """Every space that has slots, with the in- and the out-degree of each of its slots, and no vector over all slots.

    They come in float32 where that is exact, for the sum of both as well.
    """
    locator = Locator(graph)
    both = [
        Window(locator, _counter(_most(graph, transpose=transpose)), lambda space: None) for transpose in (False, True)
    ]
    ends, untouched = last_uses(locator, graph.operators, graph.spaces)
    for k in untouched:
        yield graph.spaces[k], both[0].vector(k), both[1].vector(k)
    for op, done in zip(graph.operators, ends, strict=True):
        budget.check()
        for window, transpose in zip(both, (False, True), strict=True):
            push = partial(window.push, transpose=transpose)
            _add_degrees(graph, op, transpose, window.semiring, window.read, window.join, push)
        for k in done:
            yield graph.spaces[k], both[0].vector(k).round_(), both[1].vector(k).round_()
            for window in both:
                window.drop(k)


def _add_degrees(
    graph: StructureGraph, op: EdgeOperator, transpose: bool, count: Semiring,
    degree_of: Callable[[Operand], torch.Tensor], join: Callable[[Operand, torch.Tensor], None],
    push: Callable[[EdgeOperator, torch.Tensor], None],
) -> None:  # fmt: skip
    """Add the edges of one operator to the degrees of the units on the side that it writes."""
    source, target = (op.target, op.source) if transpose else (op.source, op.target)
    values = _sums_of_ones(graph, op, transpose=transpose)
    if values is not None:
        join(target, values.to(count.dtype))
        return
    ones = _units(graph, source, count.dtype)
    if isinstance(op, Identity) and op.fused is not False:
        if transpose:
            kept = op.kept()
            ones = ones if kept is None else ones * kept
        else:  # the sum takes over the in-edges of its part
            passed = degree_of(op.source)
            ones = passed if op.fused is True else torch.where(op.fused, passed, ones)
    push(op, ones)


def _most(graph: StructureGraph, *, transpose: bool) -> int:
    """An upper bound of the in-degrees (out-degrees when transposed) of the units."""
    spaces, most = SpaceMap(graph), dict.fromkeys(range(len(graph.spaces)), 0)
    for op in graph.operators:
        source, target = (op.target, op.source) if transpose else (op.source, op.target)
        passed = 1
        if not transpose and isinstance(op, Identity) and op.fused is not False:
            passed = max((most[k] for k in spaces.of(source)), default=1)  # of a part, which the sum takes over
        for k in spaces.of(target):
            most[k] += fan(op, transpose) * passed
    return max(most.values(), default=0)


def _counter(most: int) -> Counting:
    """Sums of ones, in float32 where they, and twice as many, are exact there."""
    return Counting(torch.float32 if most < 2**23 else torch.float64)


def _units(graph: StructureGraph, side: Operand, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """1 where an element is a unit, 0 elsewhere."""
    ones = side.ones(dtype)
    valid = side.valid()
    if valid is not None:
        ones = ones * valid
    return ones if graph.live is None else ones * side.gather(graph.live, False)


def _sums_of_ones(
    graph: StructureGraph, op: EdgeOperator, *, transpose: bool = False, magnitudes: bool = False
) -> torch.Tensor | None:
    """What an operator makes of ones where all that it reads are units, without walking its edges.

    None where it reads something else, or no sums over its weights are at hand.
    """
    source = op.target if transpose else op.source
    if any(graph.meets_dead_slots(op)) or source.scores is not None or source.valid() is not None:
        return None
    return of_ones(op, transpose=transpose, magnitudes=magnitudes)


def strength(graph: StructureGraph) -> torch.Tensor:
    """float64 per slot: sum of |w| over the weight edges into and out of the unit."""
    magnitudes, passing = Counting(mode="abs"), Counting()
    total = vectors.full(graph.num_slots, torch.float64)
    for op in graph.operators:
        if isinstance(op, Identity) and op.fused is not False:  # as with in-degrees
            passed = op.source.gather(total)
            spread(graph, op, passed if op.fused is True else passed * op.fused, total, passing)
        elif op.weighted:
            # nothing but its sum reads a part of a sum: what is added against the edges is not passed on
            for transpose in (False, True):
                source, target = (op.target, op.source) if transpose else (op.source, op.target)
                values = _sums_of_ones(graph, op, transpose=transpose, magnitudes=True)
                if values is None:
                    spread(graph, op, _units(graph, source), total, magnitudes, transpose=transpose)
                else:
                    magnitudes.join(total, target, values)
    return total


def reached(graph: StructureGraph) -> torch.Tensor:
    """Boolean per slot: whether some source reaches the unit."""
    return sweep(graph, graph.is_source, BOOLEAN) > 0


def reaching(graph: StructureGraph) -> torch.Tensor:
    """Boolean per slot: whether the unit reaches some output."""
    return sweep(graph, graph.is_output, BOOLEAN, transpose=True) > 0


def path_lengths(graph: StructureGraph, *, longest: bool) -> torch.Tensor:
    """int32 per slot: edges on the longest (shortest) path from any source, -1 where there is none."""
    start = vectors.full(graph.num_slots, torch.int32, -1)
    start[graph.is_source] = 0
    return sweep(graph, start, PathLength(longest=longest))


def output_lengths(graph: StructureGraph, *, longest: bool) -> torch.Tensor:
    """int32 per output: edges on the longest (shortest) path to it from any source, -1 where there is none."""

    def start(space: Space) -> torch.Tensor | None:
        return graph.is_source[space.slots].to(torch.int32) - 1 if space.is_source else None

    return at_outputs(graph, start, PathLength(longest=longest))


def paths_from_sources(graph: StructureGraph, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """float64 per slot: number of paths from sources, inf where it overflows; exact below 2**53."""
    return sweep(graph, graph.is_source, Counting(dtype))


def paths_to_outputs(graph: StructureGraph) -> torch.Tensor:
    """float64 per slot: number of paths to outputs, inf where it overflows; exact below 2**53."""
    return sweep(graph, graph.is_output, Counting(), transpose=True)


def path_norm(graph: StructureGraph, mode: WeightMode) -> float:
    """Sum over all paths from sources to outputs of the product of their weights, as |w| or as w squared.

    Structural edges count 1. inf where it overflows float64.
    """
    return float(at_outputs(graph, graph.is_source, Counting(mode=mode)).sum())


def synflow(graph: StructureGraph) -> list[float]:
    """Per operator the sum over its weights of |w| dR/d|w|, with R the L1 path norm: <b, |A| f>.

    Equal for every set of edges that cuts all paths (a conservation law).
    """
    semiring = Counting(mode="abs")
    ahead = sweep(graph, graph.is_source, semiring)
    back = sweep(graph, graph.is_output, semiring, transpose=True)
    return [
        op.flow(semiring.read(ahead, op.source), semiring.read(back, op.target), "abs")
        for op in graph.operators
    ]


def log2_path_count(graph: StructureGraph) -> float:
    """log2 of the path count, to float64 precision: a sweep that is scaled down whenever it grows too large."""
    # what leads nowhere is left out: it could outgrow, and so scale away, what counts
    useful = reaching(graph).to(torch.float64)
    for space in graph.score_spaces:  # what reads a useful query or key is not told apart by carriers
        useful[space.slots] = 1
    slots = graph.is_source.to(torch.float64) * useful
    exponent = 0
    semiring = Counting()
    for op in graph.operators:
        out = apply(graph, op, slots, semiring)
        semiring.join(slots, op.target, out * op.target.gather(useful))
        top = float(op.target.gather(slots).max()) if op.target.numel else 0.0
        if top > 2.0**600:
            shift = int(math.log2(top)) - 1
            slots *= 2.0**-shift
            exponent += shift
    total = float(slots[graph.is_output].sum())
    return -math.inf if total <= 0 else math.log2(total) + exponent


def _primes_below(limit: int) -> list[int]:
    """Enough primes below a limit, the largest first."""
    found: list[int] = []
    number = limit if limit % 2 else limit - 1
    while len(found) < 400 and number > 2:
        if _is_prime(number):
            found.append(number)
        number -= 2
    return found


def _is_prime(n: int) -> bool:
    """Miller-Rabin with bases that are certain below 3.3e24."""
    small = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if n < 2 or any(n % p == 0 for p in small):
        return n in small
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for a in small:
        x = pow(a, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(r - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True
