"""k-cores of the undirected multigraph by peeling: two steps a round, whole rounds at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.engine import budget
from deepstruct.engine.semiring import Counting
from deepstruct.engine.steps import Steps

_COUNT = Counting()


@dataclass(frozen=True)
class Cores:
    """numbers: int64 per slot, the core number of each node, 0 elsewhere. rounds: rounds of peeling."""

    numbers: torch.Tensor
    rounds: int


def core_numbers(steps: Steps, degree: torch.Tensor) -> Cores:
    """The largest k such that a node is in a set of nodes that all have at least k edges to one another.

    Args:
        degree: float64 per slot, edges into and out of each node, parallel ones counted.

    All nodes with degree k or less are peeled at once, and k grows to the least degree that is left: a round
    lowers the degrees by one step along and one against the edges from what was peeled.
    """
    graph = steps.graph
    graph.need_units("peeling")
    alive = graph.is_node.clone()
    left = torch.where(alive, degree, torch.inf)
    numbers = torch.zeros(graph.num_slots, dtype=torch.int64)
    level, rounds = 0.0, 0
    while bool(alive.any()):
        budget.check()
        rounds += 1
        level = max(level, float(left.min()))
        peeled = alive & (left <= level)
        numbers[peeled] = round(level)
        alive &= ~peeled
        left[peeled] = torch.inf
        gone = peeled.to(torch.float64)
        active = steps.holding(gone, steps.everywhere)
        for transpose in (False, True):
            lost, _ = steps.step(gone, _COUNT, transpose=transpose, active=active)
            left -= lost.round()
    return Cores(numbers, rounds)
