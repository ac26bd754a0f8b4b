"""Sweeps through a graph from which nodes are taken out: 64 removals at a time, one per bit of a word."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from deepstruct.engine import budget
from deepstruct.engine.semirings_words import WIDTH, WORDS
from deepstruct.engine.sweeps import push
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity

EVERY = -1  # a word with all bits set
Removals = list[npt.NDArray[np.int64]]


def keep_words(graph: StructureGraph, removed: Removals) -> torch.Tensor:
    """int64 per slot: bit k is set where the slot stays in removal k.

    Args:
        removed: at most 64 arrays of node ids. What is part of a removed sum goes with it.
    """
    assert len(removed) <= WIDTH
    graph.need_units("the removal of nodes")
    nodes = np.full(graph.num_nodes, EVERY, np.int64)
    for bit, ids in enumerate(removed):
        gone = np.zeros(graph.num_nodes, bool)  # a byte per node: ids in any order stay in the cache
        gone[ids] = True
        nodes[gone] &= ~np.int64(np.uint64(1 << bit).view(np.int64))
    keep = torch.full((graph.num_slots,), EVERY, dtype=torch.int64)
    keep[graph.is_node] = torch.from_numpy(nodes)
    return keep if graph.parent is None else keep[graph.parent]


def masked_sweep(
    graph: StructureGraph, start: torch.Tensor, keep: torch.Tensor, *, transpose: bool = False
) -> torch.Tensor:
    """Which slots a boolean sweep reaches in each of 64 reduced graphs.

    Args:
        start: int64 per slot, bit k set where the sweep of the k-th graph starts.
        keep: int64 per slot, see `keep_words`.
        transpose: against the edges.

    Returns:
        int64 per slot. On a graph with cycles, passes are repeated until nothing changes.
    """
    slots = start & keep
    operators = list(reversed(graph.operators)) if transpose else list(graph.operators)
    while True:
        before = None if graph.is_dag else slots.clone()
        for op in operators:
            budget.check()
            push(graph, op, slots, WORDS, transpose=transpose)
            _hide(slots, op.source if transpose else op.target, keep)
        if before is None or torch.equal(before, slots):
            return slots


def _hide(slots: torch.Tensor, side: Operand, keep: torch.Tensor) -> None:
    if side.stride is not None and side.injective:
        side.gather(slots).bitwise_and_(side.gather(keep))
    else:
        slots &= keep


def effective_after(graph: StructureGraph, removed: Removals, *, edges: bool = False) -> list[int]:
    """Nodes (or edges) on a path from a source to an output, after each of the removals on its own.

    Args:
        removed: any number of arrays of node ids.
    """
    found: list[int] = []
    for begin in range(0, len(removed), WIDTH):
        found += _effective(graph, removed[begin : begin + WIDTH], edges)
    return found


def _effective(graph: StructureGraph, removed: Removals, edges: bool) -> list[int]:
    keep = keep_words(graph, removed)
    used = np.int64(EVERY) if len(removed) == WIDTH else np.int64((1 << len(removed)) - 1)
    everywhere = torch.where(graph.is_source, int(used), 0)
    ahead = masked_sweep(graph, everywhere, keep)
    back = masked_sweep(graph, torch.where(graph.is_output, int(used), 0), keep, transpose=True)
    if not edges:
        both = torch.where(graph.is_node, ahead & back, 0)
        return [int(((both >> bit) & 1).sum()) for bit in range(len(removed))]
    return [_edges(graph, ((ahead >> bit) & 1) == 1, ((back >> bit) & 1) == 1) for bit in range(len(removed))]


def _edges(graph: StructureGraph, reached: torch.Tensor, reaching: torch.Tensor) -> int:
    """Edges from slots that are reached to slots that reach an output."""
    total = 0
    for op in graph.operators:
        budget.check()
        total += edges_between(graph, op, reached, reaching)
    return total


def edges_between(graph: StructureGraph, op: EdgeOperator, source: torch.Tensor, target: torch.Tensor) -> int:
    """Edges of an operator from the slots in `source` to those in `target` (boolean per slot)."""
    if graph.live is not None:
        source, target = source & graph.live, target & graph.live
    here, there = op.source.gather(source, False), op.target.gather(target, False)
    if isinstance(op, Identity):
        both, kept = here & there, op.kept()
        return int((both if kept is None else both & kept).sum())
    if not bool(here.any()) or not bool(there.any()):
        return 0
    return op.count(here, there)
