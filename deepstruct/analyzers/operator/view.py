"""A structure graph as metrics of the operator analyzer see it: shared passes, each run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from deepstruct.engine import fixpoint, passes
from deepstruct.engine.components import sizes_of_components
from deepstruct.engine.contractions import used_number
from deepstruct.engine.semiring import BOOLEAN, Counting
from deepstruct.engine.sweeps import apply, carry
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator, Identity, ScoreOperator
from deepstruct.structure.scores import Join
from deepstruct.structure.space import Space
from deepstruct.structure.vectors import full, how_many
from deepstruct.structure.weights import WeightUnion

# bytes a slot that are alive at once, at most
_VECTORS = 56  # seven vectors of float64
_DEGREES = 12  # two vectors of float32, and marks
_DEGREES_KEPT = 48  # so that two vectors of float32 are a small share of the budget
_PASSED = 8  # marks alone: sweeps of truth values, and sweeps that keep a space only while it is in use
_MARKS = 3  # bytes a slot that sizes need: what is a node, an input, an output


class OperatorAnalyzer:
    """Exact at any size: passes over edge operators, the graph is never built."""

    name = "operator"
    priority = 10

    def available(self) -> str | None:
        """Always: it needs torch alone."""
        return None

    def estimate(self, graph: StructureGraph) -> int:
        """Bytes that sizes need; what needs vectors over the slots asks for them when it runs."""
        return _MARKS * graph.num_slots

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> OperatorView:
        return OperatorView(graph, context)


class OperatorView:
    """Passes over one graph; each vector has one entry per slot and is computed when first asked for.

    Metrics that make vectors over the slots read `graph`, which fails where those do not fit the budget; sizes and
    numbers of edges, which need none, read `structure`.
    """

    def __init__(self, graph: StructureGraph, context: AnalysisContext) -> None:
        self.structure, self.context = graph, context
        self._degree_counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def graph(self) -> StructureGraph:
        """The graph, for passes. Raises CapacityError where vectors over its slots do not fit `max_memory`."""
        return self._within(_VECTORS)

    @property
    def passed(self) -> StructureGraph:
        """The graph, for passes that keep no more than marks. Raises CapacityError where those do not fit."""
        return self._within(_PASSED)

    def _within(self, per_slot: int) -> StructureGraph:
        need = per_slot * self.structure.num_slots + 16 * self._largest_activation
        if need > self.context.max_memory:
            shown, budget = (f"{amount / 2**30:.3g} GiB" for amount in (need, self.context.max_memory))
            raise CapacityError(
                f"needs about {shown} for vectors over the units, more than the budget of {budget} (max_memory)", need
            )
        return self.structure

    @cached_property
    def _largest_activation(self) -> int:
        return max((max(op.source.numel, op.target.numel) for op in self.structure.operators), default=0)

    def need_dag(self) -> None:
        if not self.structure.is_dag:
            raise MetricError("the graph has a cycle: this metric is defined on acyclic graphs only")

    def need_nodes(self) -> None:
        if self.structure.num_nodes == 0:
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
        self.passed.need_units(what)

    def count_where(
        self, condition: Callable[..., torch.Tensor], *slots: torch.Tensor, joins: Sequence[Join] | None = None
    ) -> dict[str, int]:
        """Per space the number of nodes for which a condition on the values of vectors over slots holds."""
        out = {space.name: 0 for space in self.passed.spaces}
        for space, values, counts in self.passed.blocks(*slots, joins=joins):
            holds = condition(*values)
            out[space.name] += int((holds if counts is None else counts[holds]).sum())
        return out

    # -- degrees

    @cached_property
    def degrees(self) -> dict[str, torch.Tensor]:
        """ "in_degree" and "out_degree" per slot, in the smallest dtype that holds them and their sum exactly."""
        graph = self._within(_DEGREES)
        return {
            "in_degree": passes.in_degree(graph, compact=True),
            "out_degree": passes.out_degree(graph, compact=True),
        }

    @property
    def in_degree_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return self.degrees["in_degree"].to(torch.float64)

    @property
    def out_degree_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return self.degrees["out_degree"].to(torch.float64)

    @cached_property
    def strength_slots(self) -> torch.Tensor:
        """float64 per slot."""
        return passes.strength(self.graph)

    @property
    def in_degree(self) -> np.ndarray:
        """int64 per node."""
        return self.nodes(self.degrees["in_degree"]).astype(np.int64)

    @property
    def out_degree(self) -> np.ndarray:
        """int64 per node."""
        return self.nodes(self.degrees["out_degree"]).astype(np.int64)

    @property
    def strength(self) -> np.ndarray:
        """float64 per node."""
        return self.nodes(self.strength_slots)

    def degree_counts(self, vector: str) -> tuple[np.ndarray, np.ndarray]:
        """The distinct values of "in_degree", "out_degree" or "degree", ascending, and how many nodes have each."""
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
        """Per space how many nodes have degree 0, 1, 2, ...; "degree" is the sum of both."""
        return self._by_degree.counts[vector]

    def hidden_without(self, *vectors: str) -> dict[str, int]:
        """Per space the hidden nodes whose degrees ("in_degree", "out_degree") are all 0."""
        return self._by_degree.without[frozenset(vectors)]

    @cached_property
    def _by_degree(self) -> _ByDegree:
        """What a look at every degree tells; vectors of them stay only where they are small beside the budget."""
        graph = self.passed
        if "degrees" in self.__dict__ or _DEGREES_KEPT * graph.num_slots <= self.context.max_memory:
            into, onward = self.degrees.values()
            return _ByDegree(graph, ((space, into[space.slots], onward[space.slots]) for space in graph.spaces))
        return _ByDegree(graph, passes.degree_blocks(graph))

    @cached_property
    def strength_moments(self) -> dict[str, float]:
        """Mean, maximum and variance of the strength over the nodes.

        Space by space, joined as Chan, Golub & LeVeque (1979) join the moments of samples.
        """
        size, mean, apart, top = 0.0, 0.0, 0.0, -np.inf
        for _, (values,), counts in self.graph.blocks(self.strength_slots):
            if not values.numel():
                continue
            weights = None if counts is None else counts.to(values.dtype)
            here = float(values.numel() if weights is None else weights.sum())
            middle = float(values.sum() if weights is None else values @ weights) / here
            squares = (values - middle).square_()
            step = middle - mean
            apart += float(squares.sum() if weights is None else squares @ weights)
            apart += step * step * size * here / (size + here)
            mean += step * here / (size + here)
            size, top = size + here, max(top, float(values.max()))
        return {"mean": mean, "max": top, "variance": apart / size}

    @cached_property
    def hidden_slots(self) -> torch.Tensor:
        """Boolean per slot: neither input nor output."""
        return ~(self.passed.is_source | self.passed.is_output)

    @property
    def is_hidden(self) -> np.ndarray:
        """Boolean per node: neither input nor output."""
        return self.nodes(self.hidden_slots).astype(bool)

    @cached_property
    def reached(self) -> torch.Tensor:
        """Boolean per slot: reached from a source."""
        if self.passed.is_dag:
            return passes.reached(self.passed)
        return fixpoint(self.passed, self.passed.is_source, directions=(False,)) > 0.5

    @cached_property
    def reaching(self) -> torch.Tensor:
        """Boolean per slot: reaching an output."""
        if self.passed.is_dag:
            return passes.reaching(self.passed)
        return fixpoint(self.passed, self.passed.is_output, directions=(True,)) > 0.5

    @cached_property
    def effective(self) -> torch.Tensor:
        """Boolean per slot: a node on at least one path from a source to an output; False on carriers of scores."""
        return self.reached & self.reaching & self.passed.is_node

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
        return [self._effective_edges(op) for op in self.passed.operators]

    def _ends(self, op: EdgeOperator) -> tuple[torch.Tensor, torch.Tensor]:
        """Boolean source elements that are reached, and target elements that reach an output."""
        source = op.source.gather(self.reached, False)
        target = op.target.gather(self.reaching, False)
        if self.passed.live is not None:
            source = source & op.source.gather(self.passed.live, False)
            target = target & op.target.gather(self.passed.live, False)
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
        union, alone = WeightUnion(), 0
        uses = Counter(op.weight.key for op in self.passed.operators if op.weight is not None)
        for op in self.passed.operators:
            if op.weight is None or not op.weighted:
                continue
            source, target = self._ends(op)
            if not bool(source.any()) or not bool(target.any()):
                continue
            whole = bool(source.all()) and bool(target.all())
            number = used_number(op, None if whole else (source, target)) if uses[op.weight.key] == 1 else None
            if number is not None:
                alone += number
            elif whole:
                union.mark(op.weight, op.used_weights())
            else:
                usage = op.weight_usage(source.to(torch.float32), target.to(torch.float32))
                union.mark(op.weight, usage > 0.5)
        return alone + union.total()

    @cached_property
    def path_count(self) -> int:
        self.need_dag()
        return passes.path_count(self.passed)

    def path_length(self, longest: bool) -> int:
        """Edges on the longest or shortest path from a source to an output."""
        if longest:
            self.need_dag()
        if not self.passed.is_dag:
            return self._shortest_by_waves()
        lengths = passes.output_lengths(self.passed, longest=longest)
        lengths = lengths[lengths >= 0]
        if lengths.numel() == 0:
            raise MetricError("no path leads from an input to an output")
        return int(lengths.max() if longest else lengths.min())

    def _shortest_by_waves(self) -> int:
        """Breadth-first waves, for graphs with cycles (no unit is part of a sum there)."""
        here = self.passed.is_source.to(BOOLEAN.dtype)
        length = 0
        while True:
            if bool((self.passed.is_output & (here > 0)).any()):
                return length
            after = here.clone()
            for op in self.passed.operators:
                BOOLEAN.join(after, op.target, apply(self.passed, op, here, BOOLEAN))
            if torch.equal(after, here):
                raise MetricError("no path leads from an input to an output")
            here, length = after, length + 1

    @cached_property
    def components(self) -> list[int]:
        """Sizes of the weakly connected components, isolated nodes included, largest first.

        Components are flooded one by one; nodes without any edge need no flooding. Many are labelled all at once,
        where every unit has a slot.
        """
        graph = self.passed
        alone = torch.zeros(graph.num_slots, dtype=torch.bool)
        for space, marks in self._by_degree.alone:
            alone[space.slots] = marks
        if not graph.score_spaces:
            return sizes_of_components(graph, alone)
        # scores are no seeds: each has an edge to the output that reads it, which is one
        sizes = [1] * how_many(alone)
        rest = alone.logical_not_().logical_and_(graph.is_node)
        floods = 0
        limit = int(self.context.settings.get("max_floods", 2000))
        while bool(rest.any()):
            floods += 1
            if floods > limit:
                raise MetricError(f"more than {limit} components: flooding them one by one takes too long")
            found = fixpoint(graph, _seed(rest)).view(torch.bool)
            sizes.append(int(graph.total(found)))
            rest.logical_and_(found.logical_not_())
        return sorted(sizes, reverse=True)


class _ByDegree:
    """The nodes by their degrees.

    Attributes:
        counts: per vector ("in_degree", "out_degree", "degree": their sum) and space how many nodes have 0, 1, ...
        without: per set of vectors and space the hidden nodes that have 0 in all of them.
        alone: the spaces that have nodes without any edge, and those nodes, boolean per slot of the space.
    """

    def __init__(
        self, graph: StructureGraph, degrees: Iterable[tuple[Space, torch.Tensor, torch.Tensor]]
    ) -> None:
        names = [space.name for space in graph.spaces]
        none = np.zeros(0, np.int64)
        self.counts = {vector: dict.fromkeys(names, none) for vector in ("in_degree", "out_degree", "degree")}
        self.without = {
            frozenset(vectors): dict.fromkeys(names, 0)
            for vectors in (("in_degree",), ("out_degree",), ("in_degree", "out_degree"))
        }
        self.alone: list[tuple[Space, torch.Tensor]] = []
        for space, into, onward in degrees:
            alone = graph.is_node[space.slots] & (into == 0) & (onward == 0)
            if bool(alone.any()):
                self.alone.append((space, alone))
            hidden = ~(graph.is_source[space.slots] | graph.is_output[space.slots])
            for (here, *values), counts in graph.blocks_of(space, [hidden, into, onward]):
                self._add(space.name, here, values, counts)

    def _add(self, name: str, hidden: torch.Tensor, degrees: list[torch.Tensor], counts: torch.Tensor | None) -> None:
        into, onward = degrees
        # numbers of edges are below 2**53: float64 weights keep them whole
        weights = None if counts is None else counts.numpy().astype(np.float64)
        for vector, values in (("in_degree", into), ("out_degree", onward), ("degree", into + onward)):
            _add_counts(self.counts[vector], name, values, weights)
        zero = {"in_degree": into == 0, "out_degree": onward == 0}
        for vectors, found in self.without.items():
            holds = hidden
            for vector in vectors:
                holds = holds & zero[vector]
            found[name] += int((holds if counts is None else counts[holds]).sum())


def _seed(rest: torch.Tensor) -> torch.Tensor:
    """uint8 per slot: 1 on the first that is marked."""
    start = full(rest.numel(), torch.uint8)
    start[int(np.argmax(rest.numpy()))] = 1
    return start


def _add_counts(out: dict[str, np.ndarray], name: str, values: torch.Tensor, weights: np.ndarray | None) -> None:
    """Add to out[name] how many of some whole numbers, each `weights` times, are 0, 1, 2, ..."""
    found = np.bincount(values.numpy().astype(np.int64).reshape(-1), weights)
    total = np.zeros(max(len(found), len(out[name])), np.int64)
    total[: len(out[name])] = out[name]
    total[: len(found)] += found.astype(np.int64)
    out[name] = total
