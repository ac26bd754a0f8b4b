"""4-cycles of the whole graph, across operators as well, from dense blocks between spaces."""

from __future__ import annotations

import itertools

import torch

from deepstruct.engine import budget
from deepstruct.errors import CapacityError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity

_ROWS = 1 << 24  # entries of a piece of a product of blocks


def graph_butterflies(graph: StructureGraph, *, simple: bool, max_memory: int, max_operations: float) -> int:
    """4-cycles of the whole undirected graph, across operators as well, from dense blocks between spaces.

    A 4-cycle has two pairs of opposite nodes: summed over all pairs of nodes, C(shared neighbors, 2) counts it
    twice.

    Args:
        simple: whether parallel edges count once; otherwise 4-cycles on the same nodes through different
            parallel edges are different, and the nodes of each are distinct.

    Raises:
        CapacityError: with the estimate, where blocks or products do not fit.
    """
    blocks = _Blocks(graph, max_memory, max_operations)
    fourfold = 0
    for a, b in itertools.combinations_with_replacement(blocks.used, 2):
        through = sorted(blocks.neighbors[a] & blocks.neighbors[b])
        if not through:
            continue
        step = max(1, _ROWS // max(blocks.size[b], 1))
        for start in range(0, blocks.size[a], step):
            budget.check()
            part = slice(start, start + step)
            pairs = _block_pairs(blocks, a, b, through, part, simple)
            if a == b:  # pairs (u, w) and (w, u), and each node with itself
                own = _diagonal_pairs(pairs, start)
                fourfold += int(pairs.sum(1).to(torch.int64).sum()) - own
            else:
                fourfold += 2 * int(pairs.sum(1).to(torch.int64).sum())
    return fourfold // 4


def _block_pairs(
    blocks: _Blocks, a: int, b: int, through: list[int], part: slice, simple: bool
) -> torch.Tensor:
    """float64: for each pair of nodes of two spaces the ways to choose two different nodes between them."""
    shared = torch.zeros((), dtype=torch.float32)
    squares = torch.zeros((), dtype=torch.float64)
    for c in through:
        left, right = blocks.between(a, c)[part], blocks.between(b, c)
        if simple:
            shared = shared + left.clamp(max=1) @ right.clamp(max=1).T
        else:
            shared = shared + left @ right.T
            squares = squares + (left.square() @ right.square().T).to(torch.float64)
    wide = shared.to(torch.float64)
    return (wide * wide - (wide if simple else squares)) / 2


def _diagonal_pairs(pairs: torch.Tensor, start: int) -> int:
    return int(pairs.diagonal(start).sum())


def _too_large(need: int, max_memory: int) -> str:
    return (
        f"4-cycles across layers need {need / 2**30:.3g} GiB of blocks between spaces, more than the budget of "
        f"{max_memory / 2**30:.3g} GiB (max_memory); layer_butterflies counts those within each layer"
    )


class _Blocks:
    """The undirected graph as dense float32 blocks (edges between nodes of two spaces), self-loops left out."""

    def __init__(self, graph: StructureGraph, max_memory: int, max_operations: float) -> None:
        self._look_ahead(graph, max_memory)
        ids = graph.node_ids()
        offsets = torch.tensor([space.offset for space in graph.spaces])
        counts = [int(graph.is_node[space.slots].sum()) for space in graph.spaces]
        first = torch.tensor([0, *itertools.accumulate(counts)])
        self.size = dict(enumerate(counts))
        self.neighbors: dict[int, set[int]] = {}
        ends = [(self._nodes(graph, op.source), self._nodes(graph, op.target)) for op in graph.operators]
        joined: set[tuple[int, int]] = set()
        for source, target in ends:
            spaces = [torch.searchsorted(offsets, side[side >= 0], right=True) - 1 for side in (source, target)]
            here, there = (s.unique().tolist() for s in spaces)
            joined |= {(min(a, b), max(a, b)) for a in here for b in there}
        for a, b in joined:
            self.neighbors.setdefault(a, set()).add(b)
            self.neighbors.setdefault(b, set()).add(a)
        self.used = sorted(self.neighbors)
        self._check(joined, max_memory, max_operations)
        self._dense = {(a, b): torch.zeros(counts[a], counts[b]) for a, b in joined}
        for op, (source, target) in zip(graph.operators, ends, strict=True):
            self._fill(op, source, target, ids, offsets, first)

    @staticmethod
    def _look_ahead(graph: StructureGraph, max_memory: int) -> None:
        """Refuse what cannot fit before anything is written down: the largest block of a single operator."""
        sides = [(op.source, op.target) for op in graph.operators if not isinstance(op, Identity)]
        entries = max((a.numel * b.numel for a, b in sides if a.injective and b.injective), default=0)
        if 4 * entries > max_memory:
            raise CapacityError(_too_large(4 * entries, max_memory))

    @staticmethod
    def _nodes(graph: StructureGraph, operand: Operand) -> torch.Tensor:
        """int64 per element: the slot of its node, -1 where there is none."""
        index = operand.index().reshape(-1)
        if graph.num_slots == 0:
            return index
        if graph.parent is not None:
            index = torch.where(index >= 0, graph.parent[index.clamp(min=0)], index)
        return torch.where((index >= 0) & graph.is_node[index.clamp(min=0)], index, -1)

    def _check(self, joined: set[tuple[int, int]], max_memory: int, max_operations: float) -> None:
        need = sum(4 * self.size[a] * self.size[b] for a, b in joined)
        steps = sum(
            float(self.size[a]) * self.size[b] * self.size[c]
            for c in self.used
            for a, b in itertools.combinations_with_replacement(sorted(self.neighbors[c]), 2)
        )
        if need > max_memory:
            raise CapacityError(_too_large(need, max_memory))
        if steps > max_operations:
            raise CapacityError(
                f"4-cycles across layers take about {steps:.2g} multiplications, more than the limit of "
                f"{max_operations:.2g} (setting 'max_operations'); layer_butterflies counts those within each layer"
            )

    def _fill(
        self, op: EdgeOperator, source: torch.Tensor, target: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor,
        first: torch.Tensor,
    ) -> None:  # fmt: skip
        for piece in op.edges():
            budget.check()
            s, t = source[piece.source], target[piece.target]
            keep = (s >= 0) & (t >= 0) & (s != t)
            s, t = s[keep], t[keep]
            low, high = (torch.searchsorted(offsets, side, right=True) - 1 for side in (s, t))
            pairs = low * len(offsets) + high
            for pair in pairs.unique().tolist():
                here = pairs == pair
                a, b = divmod(pair, len(offsets))
                rows, columns = ids[s[here]] - first[a], ids[t[here]] - first[b]
                if a > b:
                    a, b, rows, columns = b, a, columns, rows
                block = self._dense[a, b]
                ones = torch.ones(rows.numel())
                block.view(-1).index_add_(0, rows * block.shape[1] + columns, ones)
                if a == b:
                    block.view(-1).index_add_(0, columns * block.shape[1] + rows, ones)

    def between(self, a: int, b: int) -> torch.Tensor:
        """(nodes of a, nodes of b): number of edges, whichever way they point."""
        return self._dense[a, b] if a <= b else self._dense[b, a].T
