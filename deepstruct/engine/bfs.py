"""Breadth-first search from up to 64 nodes at a time, along the edges, against them, or both ways.

Level by level: one step from the nodes that were new in the last level. A step only runs the operators next to
those, so that a whole search costs a few sweeps, however deep the graph is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from deepstruct.engine import budget
from deepstruct.engine.semirings_words import WIDTH, WORDS, mark, present
from deepstruct.engine.steps import Steps

Direction = Literal["out", "in", "both"]


@dataclass(frozen=True)
class Wave:
    """The nodes at one distance: bit k of `fresh` is set where source k is `distance` steps away.

    `spaces` are those that hold such nodes.
    """

    distance: int
    fresh: torch.Tensor
    spaces: frozenset[int]


def waves(steps: Steps, seeds: torch.Tensor, direction: Direction = "both") -> Iterator[Wave]:
    """Waves from single nodes, distance 0 first.

    Args:
        seeds: slots of at most 64 nodes.
        direction: "out" follows the edges, "in" goes against them, "both" takes them as undirected.
    """
    if seeds.numel() > WIDTH:
        raise ValueError(f"at most {WIDTH} sources at a time, got {seeds.numel()}")
    yield from spread(steps, mark(seeds, steps.graph.num_slots), direction)


def spread(steps: Steps, start: torch.Tensor, direction: Direction = "both") -> Iterator[Wave]:
    """Waves from sets of nodes: those that have bit k set in `start` (int64 per slot) are at distance 0 for bit k."""
    steps.graph.need_units("a breadth-first search")
    seen = start.clone()
    fresh, active = start, frozenset(steps.holding(start, steps.everywhere))
    distance = 0
    while active:
        budget.check()
        yield Wave(distance, fresh, active)
        found, touched = None, set()
        for transpose in {"out": (False,), "in": (True,), "both": (False, True)}[direction]:
            part, where = steps.step(fresh, WORDS, transpose=transpose, active=active)
            found = part if found is None else found.bitwise_or_(part)
            touched |= where
        assert found is not None
        fresh = found
        for k in touched:
            here = steps.graph.spaces[k].slots
            fresh[here] &= ~seen[here]
            seen[here] |= fresh[here]
        active, distance = frozenset(steps.holding(fresh, touched)), distance + 1


def distances(steps: Steps, seeds: torch.Tensor, direction: Direction = "both") -> torch.Tensor:
    """int32 (seeds, slots): number of edges from each seed to each node; -1 where it does not lead, or is no node."""
    out = torch.full((seeds.numel(), steps.graph.num_slots), -1, dtype=torch.int32)
    for begin in range(0, seeds.numel(), WIDTH):
        part = seeds[begin : begin + WIDTH]
        for wave in waves(steps, part, direction):
            for k in wave.spaces:
                here = steps.graph.spaces[k].slots
                fresh = wave.fresh[here]
                for bit in present(fresh):
                    out[begin + bit, here].masked_fill_(((fresh >> bit) & 1).bool(), wave.distance)
    return out


def levels(steps: Steps, seeds: torch.Tensor, direction: Direction = "both") -> np.ndarray:
    """int64 (seeds, distances): how many nodes are at each distance from each seed; one, itself, at 0."""
    rows: list[np.ndarray] = []
    for begin in range(0, seeds.numel(), WIDTH):
        part = seeds[begin : begin + WIDTH]
        found = [per_bit(steps, wave, part.numel()) for wave in waves(steps, part, direction)]
        rows.append(np.array(found, np.int64).T)
    deepest = max((row.shape[1] for row in rows), default=1)
    return np.concatenate([np.pad(row, ((0, 0), (0, deepest - row.shape[1]))) for row in rows] or
                          [np.zeros((0, deepest), np.int64)])  # fmt: skip


def per_bit(steps: Steps, wave: Wave, bits: int = WIDTH) -> list[int]:
    """For each of the first bits how many nodes the wave reaches."""
    totals = [0] * bits
    for k in wave.spaces:
        fresh = wave.fresh[steps.graph.spaces[k].slots]
        for bit in present(fresh):
            totals[bit] += int(((fresh >> bit) & 1).sum())
    return totals
