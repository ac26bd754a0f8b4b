"""What every view of an explicit graph shares: the edge list, its roles, and a limit on the work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure.csr import ExplicitCsr

if TYPE_CHECKING:
    from deepstruct.structure.graph import EdgeList, StructureGraph

Ints = npt.NDArray[np.int64]
T = TypeVar("T")


class ExplicitView:
    """An explicit graph, as metrics of the igraph and networkx analyzers see it.

    Nodes are 0..num_nodes-1. What a member costs is paid when it is first read. `max_operations` is
    the number of elementary steps that one metric may take.
    """

    def __init__(
        self, graph: StructureGraph, context: AnalysisContext, max_operations: float, estimate: int = 0
    ) -> None:
        self.graph = graph
        self.context = context
        self.max_operations = max_operations
        self.estimate = estimate  # bytes that the view is reckoned at
        self.edges: EdgeList = graph.edge_list(context.max_memory)
        self._once: dict[str, Any] = {}

    @property
    def num_nodes(self) -> int:
        return int(self.edges.num_nodes)

    @property
    def num_edges(self) -> int:
        """Edges, parallel ones counted."""
        return self.csr.num_edges

    @cached_property
    def csr(self) -> ExplicitCsr:
        """The edges as compressed rows, sorted by source and target; without weights where the list came as columns."""
        rows: ExplicitCsr | None = getattr(self.edges, "csr", None)
        if rows is not None:
            return rows
        start = np.zeros(self.num_nodes + 1, np.int64)
        np.cumsum(np.bincount(self.edges.source, minlength=self.num_nodes), out=start[1:])
        return ExplicitCsr(self.num_nodes, start, self.edges.target.astype(np.int32))

    @cached_property
    def inputs(self) -> Ints:
        return np.unique(np.asarray(self.edges.inputs, np.int64))

    @cached_property
    def outputs(self) -> Ints:
        return np.unique(np.asarray(self.edges.outputs, np.int64))

    @cached_property
    def hidden(self) -> npt.NDArray[np.bool_]:
        """True for nodes that are neither input nor output."""
        mask = np.ones(self.num_nodes, bool)
        mask[self.inputs] = False
        mask[self.outputs] = False
        return mask

    @cached_property
    def weighted(self) -> npt.NDArray[np.bool_]:
        """True for edges that carry a weight; structural edges have NaN there."""
        return ~np.isnan(self.edges.weight)

    @cached_property
    def directed_pairs(self) -> tuple[Ints, Ints]:
        """Distinct pairs (source, target) without self-loops, sorted."""
        source, target = self.edges.source, self.edges.target
        keep = source != target
        # parallel edges are neighbors in the sorted list
        keep[1:] &= (source[1:] != source[:-1]) | (target[1:] != target[:-1])
        return (source, target) if bool(keep.all()) else (source[keep], target[keep])

    @cached_property
    def undirected_pairs(self) -> tuple[Ints, Ints]:
        """Distinct pairs (lower, higher) of joined nodes, direction dropped, no self-loops, sorted."""
        source, target = self.directed_pairs
        if bool((source < target).all()):
            return source, target
        return _distinct(np.minimum(source, target), np.maximum(source, target), self.num_nodes)

    @cached_property
    def undirected_degree(self) -> Ints:
        """Number of distinct neighbors of each node, itself not counted."""
        low, high = self.undirected_pairs
        return np.bincount(low, minlength=self.num_nodes) + np.bincount(high, minlength=self.num_nodes)

    @property
    def wedges(self) -> float:
        """Sum of squared degrees: the steps of what looks at all pairs of neighbors."""
        return float(np.square(self.undirected_degree.astype(np.float64)).sum())

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """`compute()`, remembered under `key` for as long as the view lives."""
        if key not in self._once:
            self._once[key] = compute()
        value: T = self._once[key]
        return value

    def spend(self, steps: float, what: str) -> None:
        """Raise CapacityError when `what` would take more elementary steps than allowed."""
        if steps > self.max_operations:
            raise CapacityError(
                f"{what} takes about {steps:.2g} steps, more than the limit of {self.max_operations:.2g}; "
                "raise the setting 'max_operations' to compute it all the same"
            )

    def reserve(self, extra: int, what: str) -> None:
        """Raise CapacityError when `what` needs `extra` bytes beside the view and they do not fit."""
        if self.estimate + extra > self.context.max_memory:
            mebi = [f"{amount / 2**20:.3g} MiB" for amount in (extra, self.estimate, self.context.max_memory)]
            raise CapacityError(
                f"{what} needs about {mebi[0]} beside the graph's {mebi[1]}, "
                f"more than the budget of {mebi[2]} (max_memory)"
            )

    def need_nodes(self) -> None:
        """Raise MetricError on the graph without nodes."""
        if self.num_nodes == 0:
            raise MetricError("the graph has no nodes")

    def need_edges(self) -> None:
        """Raise MetricError when no two different nodes are joined."""
        if len(self.undirected_pairs[0]) == 0:
            raise MetricError("no two nodes of the graph are joined by an edge")


def _distinct(source: Ints, target: Ints, num_nodes: int) -> tuple[Ints, Ints]:
    # node ids fit 31 bits wherever an edge list fits memory, so a pair fits one 64-bit key
    keys = source * num_nodes + target
    if np.any(keys[1:] < keys[:-1]):
        keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    return keys // max(num_nodes, 1), keys % max(num_nodes, 1)
