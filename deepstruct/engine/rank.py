"""Centralities that solve linear recurrences along the edges: Katz, PageRank, eigenvector, HITS."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.engine import budget
from deepstruct.engine.adjacency import adjacency_action, has_vector_entry, ones_on_nodes, symmetric_action
from deepstruct.engine.lanczos import Dot, extreme, plain_dot
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import carry
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Identity


@dataclass(frozen=True)
class Scores:
    """One score per slot (0 where there is no node), and how well the recurrence holds."""

    slots: torch.Tensor
    residual: float
    converged: bool
    exact: bool = False


def solve_along_edges(
    graph: StructureGraph, start: torch.Tensor, factor: torch.Tensor, *, steps: int = 1000, tolerance: float = 1e-12
) -> Scores:
    """x[v] = start[v] + sum over edges u -> v of factor[u] x[u].

    One pass on an acyclic graph, which is exact; iteration on one with cycles, where the residual is the last
    change relative to the largest entry.

    Args:
        start, factor: float64 per slot; what stands at slots that are no nodes does not matter.
    """
    own = has_vector_entry(graph)
    start = torch.where(own, start, torch.zeros((), dtype=start.dtype))
    if graph.is_dag:
        return Scores(_one_pass(graph, start, factor) * own, 0.0, True, exact=True)
    x, change = start, float("inf")
    for _ in range(steps):
        new = start + adjacency_action(graph, factor * x)
        change = float((new - x).abs().max()) / max(float(new.abs().max()), 1e-300)
        x = new
        if change <= tolerance or budget.expired():
            break
    return Scores(x, change, change <= tolerance)


def _one_pass(graph: StructureGraph, start: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Every space is complete when it is read. A part's arrivals go on to its sum as they are."""
    semiring = Counting()
    x = start.clone()
    for op in graph.operators:
        budget.check()
        values = op.source.gather(x)
        if isinstance(op, Identity):
            scaled, kept = values * op.source.gather(factor), op.kept()
            out = scaled if kept is None else torch.where(kept, scaled, values)
        else:
            out = carry(op, values * op.source.gather(factor), semiring)
        if graph.live is not None:
            out = out * op.target.gather(graph.live)
        op.target.accumulate(x, out)
    return x


def katz(graph: StructureGraph, alpha: float, *, steps: int = 1000, tolerance: float = 1e-12) -> Scores:
    """x = alpha A' x + 1, before any normalization."""
    ones = ones_on_nodes(graph)
    return solve_along_edges(graph, ones, torch.full_like(ones, alpha), steps=steps, tolerance=tolerance)


def pagerank(
    graph: StructureGraph, out_degree: torch.Tensor, damping: float = 0.85, *, steps: int = 1000,
    tolerance: float = 1e-12,
) -> Scores:  # fmt: skip
    """PageRank with uniform teleportation; nodes without out-edges hand their rank to all nodes alike.

    What dangling nodes and teleportation hand out is uniform, so that x is proportional to the solution of
    x = damping P' x + 1 and needs no iteration of its own.

    Args:
        out_degree: float64 per slot, parallel edges counted.
    """
    factor = torch.where(out_degree > 0, damping / out_degree.clamp(min=1), torch.zeros_like(out_degree))
    found = solve_along_edges(graph, ones_on_nodes(graph), factor, steps=steps, tolerance=tolerance)
    return Scores(found.slots / found.slots.sum(), found.residual, found.converged, found.exact)


def eigenvector(
    graph: StructureGraph, *, steps: int = 300, tolerance: float = 1e-8, dot: Dot = plain_dot
) -> Scores:
    """Unit eigenvector of A + A' to its largest eigenvalue: the part of the all-ones vector in that eigenspace."""
    start = ones_on_nodes(graph)
    found = extreme(
        lambda x: symmetric_action(graph, x), start, dot=dot, steps=steps, tolerance=tolerance, vector=True
    )
    assert found.vector is not None
    return Scores(_upright(found.vector, start, dot), _relative(found.residual, found.value), found.converged)


def hits(
    graph: StructureGraph, *, steps: int = 300, tolerance: float = 1e-8, dot: Dot = plain_dot
) -> tuple[Scores, Scores]:
    """(hubs, authorities): top singular vectors of A, of any scale (Kleinberg 1999).

    Of several top singular vectors, the part of the all-ones vector in their span.
    """
    start = ones_on_nodes(graph)
    found = extreme(
        lambda x: adjacency_action(graph, adjacency_action(graph, x), transpose=True),
        start, dot=dot, steps=steps, tolerance=tolerance, vector=True,
    )  # fmt: skip
    assert found.vector is not None
    residual = _relative(found.residual, found.value)
    hub = _upright(found.vector, start, dot)
    return Scores(hub, residual, found.converged), Scores(adjacency_action(graph, hub), residual, found.converged)


def _relative(residual: float, value: float) -> float:
    return residual / abs(value) if value else residual


def _upright(vector: torch.Tensor, ones: torch.Tensor, dot: Dot) -> torch.Tensor:
    """An eigenvector of a non-negative map with its sign."""
    return vector if dot(vector, ones) >= 0 else -vector
