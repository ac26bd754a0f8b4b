"""Betweenness from some sources, after Brandes: shortest paths counted forward, dependencies passed back."""

from __future__ import annotations

import math

import torch

from deepstruct.engine import budget
from deepstruct.engine.bfs import waves
from deepstruct.engine.semiring import Counting
from deepstruct.engine.steps import Steps

_COUNT = Counting()


def dependencies(steps: Steps, seeds: torch.Tensor) -> torch.Tensor:
    """float64 per slot: sum over the seeds s of the dependency of s on the node, along directed edges.

    The dependency is the sum over targets t (other than node and source) of the share of the shortest paths
    from s to t that run through the node. Parallel edges make different paths.

    Args:
        seeds: slots of the sources.
    """
    steps.graph.need_units("the dependency of shortest paths on a node")
    total = torch.zeros(steps.graph.num_slots, dtype=torch.float64)
    for seed in seeds.reshape(-1, 1):
        budget.check()
        total += _from_one(steps, seed)
    return total


def _from_one(steps: Steps, seed: torch.Tensor) -> torch.Tensor:
    """One level of counts at a time: `paths` are counts over 2**exponent, with one exponent for each level."""
    slots = steps.graph.spaces
    found = [(wave.fresh.bool(), wave.spaces) for wave in waves(steps, seed, "out")]
    counts, exponents = [found[0][0].to(torch.float64)], [0]
    for level, spaces in found[1:]:
        arrived, _ = steps.step(counts[-1], _COUNT, active=found[len(counts) - 1][1])
        arrived = arrived * level
        top = max(float(arrived[slots[k].slots].max()) for k in spaces)
        shift = math.frexp(top)[1] if top > 2.0**500 else 0
        counts.append(arrived * 2.0**-shift)
        exponents.append(shift)
    dependency = torch.zeros(steps.graph.num_slots, dtype=torch.float64)
    for k in range(len(found) - 1, 0, -1):
        level, spaces = found[k]
        share = torch.where(level, (1 + dependency) / counts[k].clamp(min=5e-324), 0)
        back, _ = steps.step(share, _COUNT, transpose=True, active=spaces)
        # a count one level up was not yet scaled by this level's power of two
        dependency += back * counts[k - 1] * 2.0 ** -exponents[k]
    dependency[seed] = 0
    return dependency
