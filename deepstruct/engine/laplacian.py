"""Laplacians of the undirected multigraph, in its giant component, as linear maps over slots."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.engine.adjacency import has_vector_entry, symmetric_action
from deepstruct.engine.lanczos import Dot, Ritz, extreme, plain_dot
from deepstruct.engine.sweeps import fixpoint
from deepstruct.structure.graph import StructureGraph


@dataclass(frozen=True)
class Giant:
    """The largest weakly connected component: boolean per slot (nodes only), degree per slot, number of nodes."""

    members: torch.Tensor
    degree: torch.Tensor
    size: int


def giant_component(graph: StructureGraph, degree: torch.Tensor) -> Giant:
    """The largest component by nodes; of several, the one with the first node.

    Args:
        degree: float64 per slot, in- plus out-degree of every node, 0 elsewhere.
    """
    rest = has_vector_entry(graph) & (degree > 0)
    best, size = torch.zeros_like(rest), 0
    while int(rest.sum()) > size:
        start = torch.zeros(graph.num_slots)
        start[int(torch.where(rest, degree, -1.0).argmax())] = 1
        found = (fixpoint(graph, start) > 0) & rest
        count = int(found.sum())
        earlier = size == count and int(found.to(torch.uint8).argmax()) < int(best.to(torch.uint8).argmax())
        if count > size or earlier:
            best, size = found, count
        rest &= ~found
    if size == 0:  # no edges: a single node is a component too
        best = has_vector_entry(graph) & (torch.arange(graph.num_slots) == int(has_vector_entry(graph).int().argmax()))
        size = int(best.sum())
    return Giant(best, degree, size)


def laplacian(graph: StructureGraph, degree: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(D - A - A') x: a self-loop takes no part, parallel edges count."""
    return degree * x - symmetric_action(graph, x)


def algebraic_connectivity(
    graph: StructureGraph, giant: Giant, start: torch.Tensor, *, steps: int, tolerance: float, dot: Dot = plain_dot
) -> Ritz:
    """Second smallest Laplacian eigenvalue of the giant component (Fiedler). The residual is relative to it."""
    inside = giant.members.to(torch.float64)
    constant = inside / giant.size**0.5
    return extreme(
        lambda x: laplacian(graph, giant.degree, x) * inside, start * inside, end="smallest", dot=dot,
        deflate=[constant], steps=steps, accept=lambda value: tolerance * abs(value),
    )  # fmt: skip


def laplacian_radius(
    graph: StructureGraph, degree: torch.Tensor, start: torch.Tensor, *, steps: int, tolerance: float
) -> Ritz:
    """Largest Laplacian eigenvalue of the whole graph."""
    start = start * has_vector_entry(graph)
    return extreme(lambda x: laplacian(graph, degree, x), start, steps=steps, tolerance=tolerance, by_gap=True)


def normalized_gap(
    graph: StructureGraph, giant: Giant, start: torch.Tensor, *, steps: int, tolerance: float
) -> Ritz:
    """Second smallest eigenvalue of I - D^-1/2 (A + A') D^-1/2 in the giant component."""
    inside = giant.members.to(torch.float64)
    root = giant.degree.clamp(min=1).rsqrt() * inside
    top = giant.degree.sqrt() * inside
    top = top / max(float(top.norm()), 1e-300)
    found = extreme(
        lambda x: symmetric_action(graph, x * root).mul_(root), start * inside, deflate=[top], steps=steps,
        accept=lambda value: tolerance * max(1 - value, 1e-12),
    )  # fmt: skip
    return Ritz(1 - found.value, found.residual, found.converged, found.steps)
