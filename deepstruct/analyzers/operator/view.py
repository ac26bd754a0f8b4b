"""A structure graph as metrics of the operator analyzer see it: shared passes, each run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch

from deepstruct.engine import fixpoint, passes
from deepstruct.engine.semiring import BOOLEAN, Counting
from deepstruct.engine.sweeps import apply, carry
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator, Identity, ScoreOperator
from deepstruct.structure.scores import Join
from deepstruct.structure.weights import WeightUnion

_VECTORS = 7  # slot vectors of 8 bytes that are alive at once, at most


class OperatorAnalyzer:
    """Exact at any size: passes over edge operators, the graph is never built."""

    name = "operator"
    priority = 10

    def available(self) -> str | None:
        """Always: it needs torch alone."""
        return None

    def estimate(self, graph: StructureGraph) -> int:
        """Bytes of the slot vectors, and of the largest activation twice."""
        largest = max((max(op.source.numel, op.target.numel) for op in graph.operators), default=0)
        return 8 * _VECTORS * graph.num_slots + 16 * largest

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> OperatorView:
        return OperatorView(graph, context)


class OperatorView:
    """Passes over one graph; each vector has one entry per slot and is computed when first asked for."""

    def __init__(self, graph: StructureGraph, context: AnalysisContext) -> None:
        self.graph, self.context = graph, context
        self._degree_counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def need_dag(self) -> None:
        if not self.graph.is_dag:
            raise MetricError("the graph has a cycle: this metric is defined on acyclic graphs only")

    def need_nodes(self) -> None:
        if self.graph.num_nodes == 0:
            raise MetricError("the graph has no nodes")

    # -- from vectors over slots to numbers over nodes: metrics go through these, never through slots themselves

    def nodes(self, slots: torch.Tensor, join: Join | None = None) -> np.ndarray:
        """A vector over slots as an array over nodes, in node order; `join` as in `StructureGraph.slots_to_nodes`."""
        return self.graph.slots_to_nodes(slots, join)

    def total(self, slots: torch.Tensor) -> float:
        """Sum over the nodes of a vector over slots."""
        return self.graph.total(slots)

    def dot(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """Inner product over the nodes of two vectors over slots."""
        return self.graph.dot(left, right)

    def ones(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """The vector over slots that is 1 at every node."""
        return self.graph.ones(dtype)

    def need_explicit_units(self, what: str) -> None:
        """Raise CapacityError where some units have no slot of their own (implicit attention scores).

        For recurrences that do more to a vector over slots than to pass it along edges and add it up.
        """
        self.graph.need_units(what)

    def count_where(
        self, condition: Callable[..., torch.Tensor], *slots: torch.Tensor, joins: Sequence[Join] | None = None
    ) -> dict[str, int]:
        """Per space the number of nodes for which a condition on the values of vectors over slots holds."""
        out = {space.name: 0 for space in self.graph.spaces}
        for space, values, counts in self.graph.blocks(*slots, joins=joins):
            holds = condition(*values)
            out[space.name] += int((holds if counts is None else counts[holds]).sum())
        return out

    # -- degrees

    @cached_property
    def in_degree_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return passes.in_degree(self.graph)

    @cached_property
    def out_degree_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return passes.out_degree(self.graph)

    @cached_property
    def strength_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return passes.strength(self.graph)

    @property
    def in_degree(self) -> np.ndarray:
        """int64 per node."""
        return self.nodes(self.in_degree_slots).astype(np.int64)

    @property
    def out_degree(self) -> np.ndarray:
        """int64 per node."""
        return self.nodes(self.out_degree_slots).astype(np.int64)

    @property
    def strength(self) -> np.ndarray:
        """float64 per node."""
        return self.nodes(self.strength_slots)

    def degree_counts(self, vector: str) -> tuple[np.ndarray, np.ndarray]:
        """The distinct values of "in_degree" or "out_degree", ascending, and how many nodes have each."""
        if vector not in self._degree_counts:
            per_space = self.degree_counts_by_space(vector)
            top = max((len(counts) for counts in per_space.values()), default=0)
            counts = np.zeros(top, np.int64)
            for here in per_space.values():
                counts[: len(here)] += here
            values = np.flatnonzero(counts)
            self._degree_counts[vector] = values, counts[values]
        return self._degree_counts[vector]

    def degree_counts_by_space(self, vector: str) -> dict[str, np.ndarray]:
        """Per space how many nodes have degree 0, 1, 2, ..."""
        slots = self.in_degree_slots if vector == "in_degree" else self.out_degree_slots
        out = {space.name: np.zeros(0, np.int64) for space in self.graph.spaces}
        for space, (values,), counts in self.graph.blocks(slots):
            # numbers of edges are below 2**53: float64 weights keep them whole
            found = torch.bincount(values.to(torch.int64), weights=None if counts is None else counts.to(torch.float64))
            total = np.zeros(max(len(found), len(out[space.name])), np.int64)
            total[: len(out[space.name])] = out[space.name]
            total[: len(found)] += found.to(torch.int64).numpy()
            out[space.name] = total
        return out

    @cached_property
    def strength_moments(self) -> dict[str, float]:
        """Mean, maximum and variance of the strength over the nodes."""
        total, top = self.total(self.strength_slots), -np.inf
        mean, squares = total / self.graph.num_nodes, 0.0
        for _, (values,), counts in self.graph.blocks(self.strength_slots):
            if values.numel():
                top = max(top, float(values.max()))
                apart = (values - mean).square()
                squares += float(apart.sum() if counts is None else apart @ counts.to(apart.dtype))
        return {"mean": mean, "max": top, "variance": squares / self.graph.num_nodes}

    @cached_property
    def hidden_slots(self) -> torch.Tensor:
        """Boolean per slot: neither input nor output."""
        return ~(self.graph.is_source | self.graph.is_output)

    @property
    def is_hidden(self) -> np.ndarray:
        """Boolean per node: neither input nor output."""
        return self.nodes(self.hidden_slots).astype(bool)

    @cached_property
    def reached(self) -> torch.Tensor:
        """Boolean per slot: reached from a source."""
        if self.graph.is_dag:
            return passes.reached(self.graph)
        return fixpoint(self.graph, self.graph.is_source, directions=(False,)) > 0.5

    @cached_property
    def reaching(self) -> torch.Tensor:
        """Boolean per slot: reaching an output."""
        if self.graph.is_dag:
            return passes.reaching(self.graph)
        return fixpoint(self.graph, self.graph.is_output, directions=(True,)) > 0.5

    @cached_property
    def effective(self) -> torch.Tensor:
        """Boolean per slot: a node on at least one path from a source to an output; False on carriers of scores."""
        return self.reached & self.reaching & self.graph.is_node

    @property
    def effective_nodes(self) -> np.ndarray:
        """Boolean per node: on at least one path from a source to an output."""
        return self.nodes(self.reached) & self.nodes(self.reaching)

    @cached_property
    def effective_by_space(self) -> dict[str, int]:
        """Number of nodes of each space that are on a path from a source to an output."""
        return self.count_where(torch.logical_and, self.reached, self.reaching)

    @cached_property
    def effective_edges(self) -> list[int]:
        """Per operator the edges that are on a path from a source to an output: <b, A f>."""
        return [self._effective_edges(op) for op in self.graph.operators]

    def _ends(self, op: EdgeOperator) -> tuple[torch.Tensor, torch.Tensor]:
        """Boolean source elements that are reached, and target elements that reach an output."""
        source = op.source.gather(self.reached, False)
        target = op.target.gather(self.reaching, False)
        if self.graph.live is not None:
            source = source & op.source.gather(self.graph.live, False)
            target = target & op.target.gather(self.graph.live, False)
        return source, target

    def _effective_edges(self, op: EdgeOperator) -> int:
        source, target = self._ends(op)
        if isinstance(op, Identity):
            both = source & target
            kept = op.kept()
            return int((both if kept is None else both & kept).sum())
        if bool(source.all()) and bool(target.all()):
            return op.count()
        if isinstance(op, ScoreOperator):
            return op.count(source, target)
        out = carry(op, source.to(torch.float64), Counting())
        return round(float((out * target).sum()))

    @cached_property
    def effective_parameters(self) -> int:
        """Stored weights with at least one edge on a path from a source to an output, tied ones once."""
        union = WeightUnion()
        for op in self.graph.operators:
            if op.weight is None or not op.weighted:
                continue
            source, target = self._ends(op)
            if not bool(source.any()) or not bool(target.any()):
                continue
            if bool(source.all()) and bool(target.all()):
                union.mark(op.weight, op.used_weights())
                continue
            usage = op.weight_usage(source.to(torch.float32), target.to(torch.float32))
            union.mark(op.weight, usage > 0.5)
        return union.total()

    @cached_property
    def path_count(self) -> int:
        self.need_dag()
        return passes.path_count(self.graph)

    def path_length(self, longest: bool) -> int:
        """Edges on the longest or shortest path from a source to an output."""
        if longest:
            self.need_dag()
        if not self.graph.is_dag:
            return self._shortest_by_waves()
        lengths = passes.path_lengths(self.graph, longest=longest)[self.graph.is_output]
        lengths = lengths[lengths >= 0]
        if lengths.numel() == 0:
            raise MetricError("no path leads from an input to an output")
        return int(lengths.max() if longest else lengths.min())

    def _shortest_by_waves(self) -> int:
        """Breadth-first waves, for graphs with cycles (no unit is part of a sum there)."""
        here = self.graph.is_source.to(BOOLEAN.dtype)
        length = 0
        while True:
            if bool((self.graph.is_output & (here > 0)).any()):
                return length
            after = here.clone()
            for op in self.graph.operators:
                BOOLEAN.join(after, op.target, apply(self.graph, op, here, BOOLEAN))
            if torch.equal(after, here):
                raise MetricError("no path leads from an input to an output")
            here, length = after, length + 1

    @cached_property
    def components(self) -> list[int]:
        """Sizes of the weakly connected components, isolated nodes included, largest first.

        Components are flooded one by one; nodes without any edge need no flooding.
        """
        graph = self.graph
        joined = (self.in_degree_slots != 0) | (self.out_degree_slots != 0)
        rest = joined & graph.is_node
        # scores are no seeds: each has an edge to the output that reads it, which is one
        sizes = [1] * int((graph.is_node & ~joined).sum())
        floods = 0
        limit = int(self.context.settings.get("max_floods", 2000))
        while bool(rest.any()):
            floods += 1
            if floods > limit:
                raise MetricError(f"more than {limit} components: flooding them one by one takes too long")
            start = torch.zeros(graph.num_slots)
            start[int(rest.to(torch.uint8).argmax())] = 1
            found = fixpoint(graph, start) > 0
            sizes.append(int(graph.total(found)))
            rest &= ~found
        return sorted(sizes, reverse=True)


def hidden_without(view: OperatorView, *vectors: str) -> dict[str, int]:
    """Per space the hidden nodes whose degrees ("in_degree", "out_degree") are all 0."""
    degrees = [getattr(view, f"{vector}_slots") for vector in vectors]

    def holds(hidden: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        for value in values:
            hidden = hidden & (value == 0)
        return hidden

    return view.count_where(holds, view.hidden_slots, *degrees)
