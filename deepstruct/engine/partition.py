"""Sums over the groups of a partition of the nodes: edges within, degrees, cut, modularity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from deepstruct.engine import budget
from deepstruct.engine.adjacency import has_vector_entry, ones_on_nodes, spread_to_parts, symmetric_action
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import carry
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator, Identity, WeightMode


@dataclass(frozen=True)
class GroupSums:
    """float64 per group: value of the edges with both ends inside (direction dropped), and summed degrees."""

    inside: torch.Tensor
    volume: torch.Tensor

    @property
    def total(self) -> float:
        """Value of all edges."""
        return float(self.volume.sum()) / 2

    @property
    def modularity(self) -> float:
        """sum over groups of inside / m - (volume / 2m)^2 (Newman)."""
        m = self.total
        return float((self.inside / m - (self.volume / (2 * m)).square()).sum())

    @property
    def coverage(self) -> float:
        """Share of the edges that stay within a group."""
        return float(self.inside.sum()) / self.total

    @property
    def normalized_cut(self) -> float:
        """sum over groups with edges of cut / volume."""
        used = self.volume > 0
        return float((1 - 2 * self.inside[used] / self.volume[used]).sum())


def group_sums(
    graph: StructureGraph, labels: torch.Tensor, *, mode: WeightMode = "pattern", structural: bool = True
) -> GroupSums:
    """Edges within the groups of a partition, and their volumes, of the undirected multigraph.

    One pass through an operator for each label that both its sides have: few in a layered network.

    Args:
        labels: int64 per slot, 0 or more at every node; elsewhere it does not matter.
        mode: the value of a weight edge; structural edges count 1.
    """
    graph.need_units("a group for each node")
    own = has_vector_entry(graph)
    labels = torch.where(own, labels, -1)
    if graph.parent is not None:  # a part has the label of its sum
        labels = spread_to_parts(graph, labels)
    groups = int(labels.max()) + 1 if labels.numel() else 0
    inside = torch.zeros(groups, dtype=torch.float64)
    for op in graph.operators:
        if structural or op.weighted:
            _within(op, op.source.gather(labels, -1), op.target.gather(labels, -1), mode, inside)
    degree = symmetric_action(graph, ones_on_nodes(graph), mode=mode, structural=structural)
    volume = torch.zeros(groups, dtype=torch.float64).index_add_(0, labels[own], degree[own])
    return GroupSums(inside, volume)


def _within(
    op: EdgeOperator, source: torch.Tensor, target: torch.Tensor, mode: WeightMode, inside: torch.Tensor
) -> None:
    """Add the operator's edges between elements of equal label to the sums."""
    if isinstance(op, Identity):
        same = (source == target) & (source >= 0)
        kept = op.kept()
        same = same if kept is None else same & kept
        inside += torch.bincount(source[same], minlength=inside.numel())
        return
    present = torch.zeros(2, inside.numel(), dtype=torch.bool)
    for row, side in zip(present, (source, target), strict=True):
        row[side[side >= 0]] = True
    semiring = Counting(torch.float64, mode)
    for label in present.all(0).nonzero().reshape(-1).tolist():
        budget.check()
        out = carry(op, (source == label).to(torch.float64), semiring)
        inside[label] += float((out * (target == label)).sum())
