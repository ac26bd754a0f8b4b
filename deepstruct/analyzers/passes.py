"""Vectorised passes over an explicit edge list: breadth-first search, levels, sweeps along a DAG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepstruct.engine import budget

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Adjacency:
    """Compressed rows: the neighbors of node v are `targets[start[v]:start[v + 1]]`."""

    start: Ints
    targets: Ints

    @property
    def num_nodes(self) -> int:
        return len(self.start) - 1

    def neighbors(self, nodes: Ints) -> Ints:
        """Neighbours of all `nodes`, one after the other, repeated as often as edges lead there."""
        first, counts = self.start[nodes], self.start[nodes + 1] - self.start[nodes]
        total = int(counts.sum())
        if total == 0:
            return np.empty(0, np.int64)
        # position of the row's first entry, less what earlier rows have already used up
        shift = np.repeat(first - (np.cumsum(counts) - counts), counts)
        return self.targets[shift + np.arange(total, dtype=np.int64)]


def adjacency(num_nodes: int, source: Ints, target: Ints) -> Adjacency:
    """Rows by `source`; the edges may come in any order."""
    if len(source) and np.any(source[1:] < source[:-1]):
        order = np.argsort(source, kind="stable")
        source, target = source[order], target[order]
    start = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(np.bincount(source, minlength=num_nodes), out=start[1:])
    return Adjacency(start, target)


def breadth_first(rows: Adjacency, seeds: Ints) -> Ints:
    """Number of edges from the nearest seed to each node; -1 where no seed leads."""
    distance = np.full(rows.num_nodes, -1, np.int64)
    distance[seeds] = 0
    front, step = np.unique(seeds), 0
    while len(front):
        budget.check()
        step += 1
        reached = rows.neighbors(front)
        front = np.unique(reached[distance[reached] < 0])
        distance[front] = step
    return distance


def topological_levels(rows: Adjacency) -> Ints | None:
    """Longest distance of each node from a node without in-edges; None when there is a cycle."""
    waiting = np.bincount(rows.targets, minlength=rows.num_nodes)
    level = np.full(rows.num_nodes, -1, np.int64)
    front, step = np.flatnonzero(waiting == 0), 0
    while len(front):
        level[front] = step
        reached, counts = np.unique(rows.neighbors(front), return_counts=True)
        waiting[reached] -= counts
        front, step = reached[waiting[reached] == 0], step + 1
    return None if np.any(level < 0) else level


class DagSweep:
    """The edges of a DAG grouped by level and target, so that one pass is a few array operations."""

    def __init__(self, in_rows: Adjacency, level: Ints) -> None:
        """`in_rows` are the sources of each node's in-edges, `level` its longest distance from where paths start."""
        counts = np.diff(in_rows.start)
        order = np.argsort(level, kind="stable")
        self._target = order[counts[order] > 0]
        self.source = in_rows.neighbors(self._target)
        counts = counts[self._target]
        self._first = np.cumsum(counts) - counts
        top = int(level.max(initial=0))
        self._bounds = np.searchsorted(level[self._target], np.arange(1, top + 2))

    def _levels(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Per level: the sources of its edges, the first edge of each target, and those targets."""
        for begin, end in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            budget.check()
            edge = self._first[begin]
            stop = self._first[end] if end < len(self._first) else len(self.source)
            yield self.source[edge:stop], self._first[begin:end] - edge, self._target[begin:end]

    def sums(self, initial: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """value[v] = initial[v] + the sum of value[u] over edges u -> v. Any dtype, object included."""
        values = initial.copy()
        for sources, first, targets in self._levels():
            values[targets] += np.add.reduceat(values[sources], first)
        return values

    def longest(self, seeds: Ints, num_nodes: int) -> npt.NDArray[np.float64]:
        """Most edges on a path from a seed to each node; -inf where no seed leads."""
        values = np.full(num_nodes, -np.inf)
        values[seeds] = 0.0
        for sources, first, targets in self._levels():
            reached = np.maximum.reduceat(values[sources], first) + 1.0
            values[targets] = np.maximum(values[targets], reached)
        return values
