"""Who reaches whom: 64 sources in one boolean sweep."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepstruct.engine import budget
from deepstruct.engine.semirings_words import WIDTH, WORDS, mark
from deepstruct.engine.sweeps import push, sweep
from deepstruct.structure.graph import StructureGraph


def reach(graph: StructureGraph, start: torch.Tensor, *, transpose: bool = False) -> torch.Tensor:
    """int64 per slot: the bits of all units that lead there (or are there), along the edges or against them."""
    if graph.is_dag:
        return sweep(graph, start, WORDS, transpose=transpose)
    words = start.clone()
    while True:
        budget.check()
        before = words.clone()
        for op in reversed(graph.operators) if transpose else graph.operators:
            push(graph, op, words, WORDS, transpose=transpose)
        if torch.equal(words, before):
            return words


def reaches(
    graph: StructureGraph, seeds: torch.Tensor, *, transpose: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(seeds, words): up to 64 of the seeds (slots) at a time, and for each slot which of them lead there."""
    for part in seeds.split(WIDTH):
        budget.check()
        yield part, reach(graph, mark(part, graph.num_slots), transpose=transpose)
