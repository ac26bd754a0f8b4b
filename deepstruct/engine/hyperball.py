"""HyperBall: how many nodes are within each distance of every node, by counters that only ever take maxima.

Every node has 2**log2m registers of a HyperLogLog counter, which estimates the size of a set from the largest
run of zeros in the hashes of its members. The counter of a ball of radius t + 1 is the maximum of those of the
balls of radius t around the node and its neighbors (Boldi & Vigna 2013).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from deepstruct.engine import budget
from deepstruct.engine.semirings_extreme import REGISTERS
from deepstruct.engine.steps import Steps
from deepstruct.errors import MetricError


@dataclass(frozen=True)
class Balls:
    """Estimates from one run.

    sizes: for each radius the sum over the nodes of the number of nodes within it. harmonic: float64 per slot,
    the sum of 1 / distance. error: relative standard error of one counter.
    """

    sizes: list[float]
    harmonic: torch.Tensor
    error: float

    @property
    def mean_distance(self) -> float:
        """Mean distance over ordered pairs of different nodes of one component; NaN where there is no pair."""
        grown = [after - before for before, after in zip(self.sizes, self.sizes[1:], strict=False)]
        pairs = self.sizes[-1] - self.sizes[0]
        return sum(t * amount for t, amount in enumerate(grown, 1)) / pairs if pairs > 0 else math.nan


def balls(steps: Steps, log2m: int, seed: int = 0) -> Balls:
    """Undirected balls of all radii around all nodes.

    Args:
        log2m: 2**log2m registers of one byte for every slot; the relative standard error is 1.04 / 2**(log2m / 2).
    """
    if not 4 <= log2m <= 16:
        raise MetricError(f"the setting 'hyperball_log2m' is {log2m}: give a number from 4 to 16")
    node = steps.graph.is_node
    registers = _first(steps, log2m, seed)
    before = _estimate(registers)
    sizes, harmonic = [float(before[node].sum())], torch.zeros(steps.graph.num_slots, dtype=torch.float64)
    news: list[torch.Tensor | None] = [node & (row > 0) for row in registers]
    for radius in itertools.count(1):
        if not _grow(steps, registers, news):
            break
        now = torch.maximum(_estimate(registers), before)
        harmonic += torch.where(node, (now - before) / radius, 0)
        sizes.append(float(now[node].sum()))
        before = now
    return Balls(sizes, harmonic, 1.04 / math.sqrt(2**log2m))


def _first(steps: Steps, log2m: int, seed: int) -> torch.Tensor:
    """uint8 (registers, slots): counters of single nodes, from hashes of their ids."""
    ids = steps.graph.node_ids()
    node = (ids >= 0).nonzero().reshape(-1)
    hashes = _hash(ids[node], seed)
    register = hashes & ((1 << log2m) - 1)
    rest = (hashes >> log2m) & ((1 << (63 - log2m)) - 1)
    # rank: position of the lowest bit that is set
    lowest = (rest & -rest).to(torch.float64)
    rank = torch.where(rest == 0, 63 - log2m + 1, lowest.clamp(min=1).log2().round().to(torch.int64) + 1)
    registers = torch.zeros(1 << log2m, steps.graph.num_slots, dtype=torch.uint8)
    registers[register, node] = rank.to(torch.uint8)
    return registers


def _hash(ids: torch.Tensor, seed: int) -> torch.Tensor:
    """The finalizer of splitmix64, on int64 with wrap-around."""
    x = ids + _wrapped(0x9E3779B97F4A7C15 * (2 * seed + 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * _wrapped(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _wrapped(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def _estimate(registers: torch.Tensor) -> torch.Tensor:
    """float64 per slot: the size that its registers tell."""
    m = registers.shape[0]
    total, empty = torch.zeros(registers.shape[1], dtype=torch.float64), torch.zeros(registers.shape[1])
    powers = 2.0 ** -torch.arange(256, dtype=torch.float64)
    for row in registers:
        total += powers[row.to(torch.int64)]
        empty += row == 0
    alpha = {16: 0.673, 32: 0.697, 64: 0.709}.get(m, 0.7213 / (1 + 1.079 / m))
    raw = alpha * m * m / total
    linear = m * (m / empty.to(torch.float64)).log()  # better for small sets, which leave registers empty
    return torch.where((raw <= 2.5 * m) & (empty > 0), linear, raw)


def _grow(steps: Steps, registers: torch.Tensor, news: list[torch.Tensor | None]) -> bool:
    """Balls of one step more, in place; whether any counter changed.

    `news` has for each register where it grew in the last round (boolean per slot): only that can make others
    grow, and no register has anything to do with another.
    """
    for k, row in enumerate(registers):
        grown = news[k]
        if grown is None:
            continue
        budget.check()
        x = torch.where(grown, row.to(torch.int32), -1)
        active = steps.holding(grown, steps.everywhere)
        before = row.clone()
        for transpose in (False, True):
            arrived, _ = steps.step(x, REGISTERS, transpose=transpose, active=active)
            torch.maximum(row, arrived.clamp_(min=0).to(torch.uint8), out=row)
        larger = row > before
        news[k] = larger if bool(larger.any()) else None
    return any(grown is not None for grown in news)
