"""Zero-dimensional persistence of unrolled layers: Kruskal's algorithm, edges of one stored weight at a time.

All edges through one stored weight (an orbit: one tap between two channels, at every position) have the same
value. So only the stored weights are sorted, and orbits are written down, the strongest first, until everything
that can be joined is: a few of them in a dense layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from deepstruct.engine import budget
from deepstruct.engine.persistence import Persistence
from deepstruct.errors import CapacityError, MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul, alive

Ints = npt.NDArray[np.int64]
Members = tuple[Ints, Ints, Ints]  # source elements, target elements, and which of the orbits asked for each is of
_BATCH = 1 << 22  # edges that are written down at once


class Orbits:
    """The edges of one operator by stored weight.

    Attributes:
        value: |w| per orbit, in the operator's own order; only weights that are edges.
        size: edges per orbit.
        parts: components that the layer has where every weight is an edge.
        source, target: elements that some tap reads and writes.
    """

    value: npt.NDArray[np.float64]
    size: Ints
    parts: int
    source: Ints
    target: Ints

    def members(self, which: Ints) -> Iterator[Members]:
        """The edges of some orbits, in pieces."""
        raise NotImplementedError


class _ConvOrbits(Orbits):
    def __init__(self, op: Conv) -> None:
        self.op = op
        meets = op.tap_counts.reshape(-1)
        live = alive(op.weight.tensor, op.threshold).flatten(2) & (meets > 0)
        self.first, self.second, self.tap = (axis.numpy() for axis in live.nonzero(as_tuple=True))
        self.value = _sizes(op.weight.tensor).flatten(2)[live].numpy()
        batch, c_in, *inner = op.source.shape
        c_out, outer = op.target.shape[1], op.target.shape[2:]
        self.shape = batch, c_in, int(np.prod(inner)), c_out, int(np.prod(outer))
        self.at = list(self._positions(inner, outer))
        self.size = meets.numpy()[self.tap] * batch
        reads, writes = (np.concatenate([pair[k] for pair in self.at]) for k in (0, 1))
        self.parts = batch * op.groups * _components(reads, writes + self.shape[2], self.shape[2] + self.shape[4])
        self.source = _everywhere(batch * c_in, np.unique(reads), self.shape[2])
        self.target = _everywhere(batch * c_out, np.unique(writes), self.shape[4])

    def _positions(self, inner: Sequence[int], outer: Sequence[int]) -> Iterator[tuple[Ints, Ints]]:
        """For each tap of the kernel the (input, output) positions that it joins, flat."""
        for tap in np.ndindex(*self.op.kernel):
            read = written = np.zeros(1, np.int64)
            for axis, k in enumerate(tap):
                table = self.op.taps[axis]
                _, o, i = table[:, table[0] == k].numpy()
                read = (read[:, None] * inner[axis] + i).reshape(-1)
                written = (written[:, None] * outer[axis] + o).reshape(-1)
            yield read, written

    def members(self, which: Ints) -> Iterator[Members]:
        batch, c_in, n_in, c_out, n_out = self.shape
        taps = self.tap[which]
        for tap in np.unique(taps).tolist():
            here = np.flatnonzero(taps == tap)
            read, written = self.at[tap]
            a, b = self._channels(self.first[which[here]], self.second[which[here]])
            for n in range(batch):
                source = ((n * c_in + a) * n_in)[:, None] + read
                target = ((n * c_out + b) * n_out)[:, None] + written
                yield source.reshape(-1), target.reshape(-1), np.repeat(here, len(read))

    def _channels(self, first: Ints, second: Ints) -> tuple[Ints, Ints]:
        """Input and output channel of weight entries (first, second, ...)."""
        rows, columns = self.op.weight.tensor.shape[:2]
        group = first // (rows // self.op.groups)
        other = group * columns + second
        return (first, other) if self.op.transposed else (other, first)


class _ProductOrbits(Orbits):
    """Of y = x M: every row of x is another copy of the same bipartite graph."""

    def __init__(self, op: Matmul) -> None:
        assert op.weight is not None
        tensor = op.weight.tensor
        rows = op.source.numel // max(op.inner, 1)
        if tensor.dim() == 2:
            tensor, per = tensor.unsqueeze(0), rows
        else:
            tensor = tensor.expand(*op.source.shape[:-2], op.inner, op.outer).reshape(-1, op.inner, op.outer)
            per = op.source.shape[-2]
        live = alive(tensor, op.threshold)
        self.block, self.read, self.written = (axis.numpy() for axis in live.nonzero(as_tuple=True))
        self.value = _sizes(tensor)[live].numpy()
        self.size = np.full(len(self.value), per, np.int64)
        self.parts, self.per, self.inner, self.outer = rows, per, op.inner, op.outer
        self.source, self.target = np.arange(op.source.numel), np.arange(op.target.numel)

    def members(self, which: Ints) -> Iterator[Members]:
        row = self.block[which, None] * self.per + np.arange(self.per)
        source = row * self.inner + self.read[which, None]
        target = row * self.outer + self.written[which, None]
        yield source.reshape(-1), target.reshape(-1), np.repeat(np.arange(len(which)), self.per)


class _ListedOrbits(Orbits):
    """Edges that are a list: each an orbit of its own."""

    def __init__(self, op: EdgeOperator) -> None:
        pieces = list(op.edges())
        self.read, self.written, weight = (torch.cat([piece[k] for piece in pieces]).numpy() for k in range(3))
        self.value = np.abs(weight)
        self.size = np.ones(len(weight), np.int64)
        self.parts = 0
        self.source, self.target = np.unique(self.read), np.unique(self.written)

    def members(self, which: Ints) -> Iterator[Members]:
        yield self.read[which], self.written[which], np.arange(len(which))


def orbits(op: EdgeOperator) -> Orbits:
    """The edges of a weighted operator by stored weight. Raises MetricError for weights without values, or NaN."""
    if op.weight is not None and op.weight.tensor.is_meta:
        raise MetricError(f"the weights of {op.name!r} have no values (they are on the meta device)")
    if isinstance(op, Conv):
        found: Orbits = _ConvOrbits(op)
    elif isinstance(op, Matmul):
        found = _ProductOrbits(op)
    else:
        found = _ListedOrbits(op)
    if np.isnan(found.value).any():
        raise MetricError(f"some weights of {op.name!r} are not a number (NaN)")
    return found


def _sizes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.float64).abs()


def _everywhere(channels: int, positions: Ints, size: int) -> Ints:
    """The elements at some positions, in every channel."""
    return (np.arange(channels)[:, None] * size + positions).reshape(-1)


def _components(a: Ints, b: Ints, vertices: int) -> int:
    """Components with at least one edge."""
    labels = _labels(a, b, vertices)
    return len(np.unique(labels[a]))


def _labels(a: Ints, b: Ints, vertices: int) -> npt.NDArray[np.int32]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(vertices, vertices))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


@dataclass
class _Side:
    """Vertices of one side of a layer: the units that some operators read, or write."""

    slots: Ints
    first: int

    def of(self, elements: Ints, slots: Ints) -> Ints:
        """Vertices of elements whose slots are given, -1 where there is no unit."""
        here = slots[elements]
        place = np.searchsorted(self.slots, here)
        return np.where(here >= 0, place + self.first, -1)


def unrolled_persistence(
    graph: StructureGraph, ops: Sequence[EdgeOperator], found: Sequence[Orbits], largest: float, limit: float
) -> Persistence:
    """Persistence of an unrolled layer: of the units that its operators read, and those that they write.

    Kruskal's algorithm gives the maximum spanning forest of the edges; what it leaves apart is joined by absent
    connections of weight 0.

    Args:
        found: the orbits of each operator.
        largest: what the weights are divided by.
        limit: edges to write down at most.

    Raises CapacityError beyond the limit.
    """
    ends = [(_units(graph, op.source), _units(graph, op.target)) for op in ops]
    left = _Side(_used([(source, o.source) for (source, _), o in zip(ends, found, strict=True)]), 0)
    right = _Side(_used([(target, o.target) for (_, target), o in zip(ends, found, strict=True)]), len(left.slots))
    vertices = len(left.slots) + len(right.slots)
    plain = len(ops) == 1 and all(_distinct(side) for side in ends[0]) and found[0].parts > 0
    fewest = found[0].parts if plain else 1
    forest = _Forest(vertices, fewest)
    written = 0
    for batch in _batches(found, vertices):
        if forest.parts <= fewest:
            break
        edges, values = [], []
        for k, which in batch:
            for source, target, of in found[k].members(which):
                written += len(of)
                if written > limit:
                    raise CapacityError(f"its spanning forest takes more than {limit:.2g} edges (max_operations)")
                edges.append((left.of(source, ends[k][0]), right.of(target, ends[k][1])))
                values.append(found[k].value[which[of]])
        a, b = (np.concatenate([pair[side] for pair in edges]) for side in (0, 1))
        forest.join(a, b, np.concatenate(values))
    tree = np.concatenate(forest.tree) if forest.tree else np.empty(0)
    absent = max(vertices - 1 - len(tree), 0)
    return Persistence(np.concatenate([1 - tree / largest, np.ones(absent)]), 1 if vertices else 0)


def _batches(found: Sequence[Orbits], vertices: int) -> Iterator[list[tuple[int, Ints]]]:
    """(operator, orbits) with all edges of a batch at least as strong as those of the next."""
    value = np.concatenate([o.value for o in found])
    size = np.concatenate([o.size for o in found])
    owner = np.repeat(np.arange(len(found)), [len(o.value) for o in found])
    first = np.cumsum([0, *(len(o.value) for o in found)])
    order = np.argsort(-value, kind="stable")
    until = np.cumsum(size[order])
    start, take = 0, 2 * vertices
    while start < len(order):
        budget.check()
        done = until[start - 1] if start else 0
        stop = max(int(np.searchsorted(until, done + min(take, _BATCH), side="right")), start + 1)
        here = order[start:stop]
        yield [(k, here[owner[here] == k] - first[k]) for k in np.unique(owner[here]).tolist()]
        start, take = stop, 2 * take


class _Forest:
    """A growing maximum spanning forest; edges come in batches, the strongest first."""

    def __init__(self, vertices: int, fewest: int) -> None:
        self.label = np.arange(vertices, dtype=np.int64)
        self.parts, self.fewest = vertices, fewest
        self.tree: list[npt.NDArray[np.float64]] = []

    def join(self, a: Ints, b: Ints, value: npt.NDArray[np.float64]) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import minimum_spanning_tree

        real = (a >= 0) & (b >= 0)
        a, b, value = self.label[a[real]], self.label[b[real]], value[real]
        apart = a != b
        a, b, value = a[apart], b[apart], value[apart]
        if len(a) == 0:
            return
        order = np.argsort(-value, kind="stable")
        low, high = np.minimum(a, b)[order], np.maximum(a, b)[order]
        _, kept = np.unique(low * self.parts + high, return_index=True)  # of parallel edges the strongest
        rank = kept.astype(np.float64) + 1  # as weights: the strongest has the least
        contracted = coo_array((rank, (low[kept], high[kept])), shape=(self.parts, self.parts))
        chosen = minimum_spanning_tree(contracted.tocsr()).tocoo()
        self.tree.append(value[order[chosen.data.astype(np.int64) - 1]])
        self.label = _labels(chosen.row, chosen.col, self.parts)[self.label].astype(np.int64)
        self.parts -= len(chosen.data)


def _units(graph: StructureGraph, operand: Operand) -> Ints:
    """Slot per element, flat; -1 where there is no unit."""
    index = operand.index().reshape(-1)
    if graph.live is not None and graph.num_slots:
        index = torch.where((index >= 0) & graph.live[index.clamp(min=0)], index, -1)
    return index.clamp(min=-1).numpy()


def _used(pairs: Sequence[tuple[Ints, Ints]]) -> Ints:
    """The slots of some elements, each once, ascending."""
    slots = np.unique(np.concatenate([slots[elements] for slots, elements in pairs]))
    return slots[slots >= 0]


def _distinct(slots: Ints) -> bool:
    """Whether every element is a unit of its own."""
    return bool((slots >= 0).all()) and len(np.unique(slots)) == len(slots)
