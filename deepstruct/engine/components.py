"""Weakly connected components: floods for the large ones, labels for the many small ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from deepstruct.engine import budget
from deepstruct.engine.semirings_extreme import LABELS
from deepstruct.engine.semirings_words import WIDTH, WORDS, mark
from deepstruct.engine.sweeps import fixpoint, push
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Conv, Identity, Matmul, Separable, Sparse
from deepstruct.structure.vectors import how_many

_FLOODS = 2  # most networks are one component and what is cut off: labels would only cost more
_LABELLED = (Conv, Identity, Matmul, Separable, Sparse)


def component_labels(graph: StructureGraph, alone: torch.Tensor) -> torch.Tensor:
    """int64 per slot: the same number for the nodes of one component, -1 on slots that are no nodes.

    Args:
        alone: boolean per slot: nodes known to have no edge.
    """
    graph.need_units("a label for each node")
    labels = torch.full((graph.num_slots,), -1, dtype=torch.int64)
    labels[alone] = alone.nonzero().reshape(-1)
    rest = graph.is_node & ~alone
    for found in _floods(graph, rest, how_many(alone)):
        labels[found] = int(np.argmax(found.numpy()))
    _label(graph, labels, rest)
    return labels


def sizes_of_components(graph: StructureGraph, alone: torch.Tensor) -> list[int]:
    """Number of nodes of each component, the largest first; `alone` as in `component_labels`."""
    graph.need_units("a label for each node")
    sizes = [1] * how_many(alone)
    rest = graph.is_node & ~alone
    sizes += [how_many(found) for found in _floods(graph, rest, len(sizes))]
    if bool(rest.any()):
        labels = torch.full((graph.num_slots,), -1, dtype=torch.int64)
        _label(graph, labels, rest)
        sizes += component_sizes(labels)
    return sorted(sizes, reverse=True)


def _floods(graph: StructureGraph, rest: torch.Tensor, alone: int) -> Iterator[torch.Tensor]:
    """The nodes of a few components, which are taken from `rest`: most networks have one and what is cut off."""
    there = graph.num_slots if graph.live is None else how_many(graph.live)
    for k in range(_FLOODS):
        if not bool(rest.any()):
            return
        start = vectors.full(graph.num_slots, torch.uint8)
        # an output reads a whole layer at once in most networks, an input is read through a few windows
        ends = rest & graph.is_output
        start[int(np.argmax((ends if bool(ends.any()) else rest).numpy()))] = 1
        most = there - alone if k == 0 else None
        marked = fixpoint(graph, start, directions=(True, False), most=most) > 0
        marked &= graph.is_node
        rest &= ~marked
        yield marked


def _label(graph: StructureGraph, labels: torch.Tensor, rest: torch.Tensor) -> None:
    if bool(rest.any()):
        known = all(isinstance(op, _LABELLED) for op in graph.operators)
        (_by_largest if known and graph.num_slots < 2**31 - 2 else _by_floods)(graph, labels, rest)


def _by_largest(graph: StructureGraph, labels: torch.Tensor, rest: torch.Tensor) -> None:
    """Every node takes the largest slot number in its component: sweeps to and fro until nothing changes."""
    slots = torch.full((graph.num_slots,), -1, dtype=torch.int32)
    here = rest.nonzero().reshape(-1)
    slots[here] = here.to(torch.int32)
    slots = _shared(graph, slots)
    while True:
        budget.check()
        before = slots.clone()
        for transpose in (False, True):
            for op in reversed(graph.operators) if transpose else graph.operators:
                push(graph, op, slots, LABELS, transpose=transpose)
            slots = _shared(graph, slots)
        if torch.equal(slots, before):
            break
        _hook(slots, before, here)
    labels[rest] = slots[rest].to(torch.int64)


def _hook(slots: torch.Tensor, before: torch.Tensor, here: torch.Tensor) -> None:
    """Who was the largest of some nodes hears what they hear, and all of them take its number, which is theirs by now.

    Sweeps alone carry a number as far as layers go, but only a window further across them. With this, the number of
    sweeps grows with the logarithm of the way (Shiloach and Vishkin, 1982).
    """
    slots.scatter_reduce_(0, before[here].long(), slots[here], "amax")
    for _ in range(2):
        slots[here] = slots[slots[here].long()]


def _shared(graph: StructureGraph, slots: torch.Tensor) -> torch.Tensor:
    """Parts of a sum and the sum are one node."""
    if graph.parent is None:
        return slots
    node = slots.clone().scatter_reduce_(0, graph.parent, slots, "amax")
    return node[graph.parent]


def _by_floods(graph: StructureGraph, labels: torch.Tensor, rest: torch.Tensor) -> None:
    """64 floods at a time, each from a node of its own."""
    while bool(rest.any()):
        budget.check()
        seeds = rest.nonzero().reshape(-1)
        seeds = seeds[:: max(1, seeds.numel() // WIDTH)][:WIDTH]
        words = mark(seeds, graph.num_slots)
        while True:
            before = words.clone()
            for transpose in (False, True):
                for op in reversed(graph.operators) if transpose else graph.operators:
                    push(graph, op, words, WORDS, transpose=transpose)
                words = _united(graph, words)
            if torch.equal(words, before):
                break
        for bit, slot in enumerate(seeds.tolist()):
            if not rest[slot]:
                continue  # an earlier seed is in the same component
            found = ((words >> bit) & 1).bool() & rest
            labels[found] = slot
            rest &= ~found


def _united(graph: StructureGraph, words: torch.Tensor) -> torch.Tensor:
    if graph.parent is None:
        return words
    parts = (graph.parent != torch.arange(graph.num_slots)).nonzero().reshape(-1)
    for bit in range(WIDTH):
        here = parts[((words[parts] >> bit) & 1).bool()]
        words[graph.parent[here]] |= torch.tensor(1, dtype=torch.int64) << bit
    words[parts] = words[graph.parent[parts]]
    return words


def component_sizes(labels: torch.Tensor) -> list[int]:
    """Number of nodes of each component, the largest first."""
    if not bool((labels >= 0).any()):
        return []
    _, sizes = torch.unique(labels[labels >= 0], return_counts=True)
    return sorted(sizes.tolist(), reverse=True)
