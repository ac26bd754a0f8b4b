"""What breadth-first searches from a sample of nodes say about distances: sums over pairs, bounds for every node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.engine.bfs import Direction, distances, per_bit, waves
from deepstruct.engine.semirings_words import WIDTH, popcount
from deepstruct.engine.steps import Steps


@dataclass(frozen=True)
class Survey:
    """Distances from the seeds.

    levels: int64 (seeds, distances), how many nodes are at each distance from each seed.
    reached: int64 per slot, how many other seeds lead to the node. total, inverse: float64 per slot, the sums of
    their distances and of 1 / distance.
    """

    levels: np.ndarray
    reached: torch.Tensor
    total: torch.Tensor
    inverse: torch.Tensor

    @property
    def eccentricities(self) -> np.ndarray:
        """int64 per seed: the distance to the farthest node that it leads to."""
        steps = np.arange(self.levels.shape[1])
        return np.where(self.levels > 0, steps, 0).max(1, initial=0)


def survey(steps: Steps, seeds: torch.Tensor, direction: Direction = "both") -> Survey:
    """Searches from all seeds (slots), 64 at a time."""
    count = steps.graph.num_slots
    reached = torch.zeros(count, dtype=torch.int64)
    total, inverse = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    rows: list[list[list[int]]] = []
    for part in seeds.split(WIDTH):
        found = []
        for wave in waves(steps, part, direction):
            found.append(per_bit(steps, wave, part.numel()))
            if wave.distance == 0:
                continue
            for k in wave.spaces:
                here = steps.graph.spaces[k].slots
                bits = popcount(wave.fresh[here])
                reached[here] += bits
                total[here] += bits.to(torch.float64) * wave.distance
                inverse[here] += bits.to(torch.float64) / wave.distance
        rows.append(found)
    deepest = max((len(found) for found in rows), default=1)
    levels = [np.pad(np.array(found, np.int64).T, ((0, 0), (0, deepest - len(found)))) for found in rows]
    return Survey(np.concatenate(levels) if levels else np.zeros((0, 1), np.int64), reached, total, inverse)


def eccentricity_bounds(
    steps: Steps, seeds: torch.Tensor, eccentricities: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 per slot: bounds on the distance to the farthest node of the component; NaN where no seed leads.

    By the triangle inequality, with d the distance to a seed of eccentricity e: max(d, e - d) from below and
    d + e from above. Undirected.
    """
    lower = torch.full((steps.graph.num_slots,), torch.nan, dtype=torch.float64)
    upper = lower.clone()
    for begin in range(0, seeds.numel(), WIDTH):
        part = seeds[begin : begin + WIDTH]
        masks: dict[int, int] = {}  # seeds by eccentricity
        for bit in range(part.numel()):
            far = int(eccentricities[begin + bit])
            masks[far] = masks.get(far, 0) | (1 << bit)
        for wave in waves(steps, part, "both"):
            for k in wave.spaces:
                here = steps.graph.spaces[k].slots
                fresh = wave.fresh[here]
                for far, mask in masks.items():
                    hit = (fresh & _signed(mask)) != 0
                    below = torch.tensor(float(max(wave.distance, far - wave.distance)), dtype=torch.float64)
                    above = torch.tensor(float(wave.distance + far), dtype=torch.float64)
                    lower[here] = torch.where(hit, torch.fmax(lower[here], below), lower[here])
                    upper[here] = torch.where(hit, torch.fmin(upper[here], above), upper[here])
    return lower, upper


def _signed(mask: int) -> int:
    return mask - (1 << 64) if mask >> 63 else mask


def diameter_bounds(steps: Steps, first: int, rounds: int = 2) -> tuple[int, int]:
    """Bounds on the largest distance in the component of a node (slot), undirected.

    From the farthest node on to the farthest from that, and to the middle between the two, a few times: the
    largest eccentricity that was met is a lower bound, twice the smallest one an upper bound.
    """
    here, best, least = first, 0, None
    for _ in range(rounds):
        ways = distances(steps, torch.tensor([here]))[0]
        one = int(ways.argmax())
        from_one = distances(steps, torch.tensor([one]))[0]
        other = int(from_one.argmax())
        from_other = distances(steps, torch.tensor([other]))[0]
        length = int(from_one[other])
        met = [int(ways[one]), length, int(from_other.max())]
        best = max(best, *met)
        least = min(met) if least is None else min(least, *met)
        between = (from_one == length // 2) & (from_other == length - length // 2)
        here = int(between.to(torch.uint8).argmax())
    last = int(distances(steps, torch.tensor([here]))[0].max())
    assert least is not None
    return max(best, last), 2 * min(least, last)
