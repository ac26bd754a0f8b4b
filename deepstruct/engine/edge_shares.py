"""The share of the input-output paths that runs through each edge: of a layer, of one edge, of one weight."""

from __future__ import annotations

from typing import NamedTuple

import torch

from deepstruct.engine import budget
from deepstruct.engine.flow import from_sources, to_outputs
from deepstruct.engine.semirings_extreme import LABELS
from deepstruct.engine.steps import is_edge
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator, Identity


class EdgeShare(NamedTuple):
    """One edge: its share, and the slots that it joins (a part of a sum is not yet the sum)."""

    share: float
    source: int
    target: int


class EdgeShares:
    """Shares of paths by edge. The edge u -> v has f(u) b(v) / total: f paths lead to u, b from v to the outputs.

    Neither f nor b overflows (see `engine.flow`); edges are never written down. Raises MetricError on graphs with
    cycles, and where no path leads from an input to an output.
    """

    def __init__(self, graph: StructureGraph) -> None:
        self.graph = graph
        self._ahead, self._back = from_sources(graph), to_outputs(graph)
        (self._total,), self._exponent = self._ahead.totals(graph.is_output)
        if self._total <= 0:
            raise MetricError("no path leads from an input to an output")

    def ends(self, op: EdgeOperator) -> tuple[torch.Tensor, torch.Tensor]:
        """Values on source and target elements of an operator whose products are the shares of its edges."""
        (x,), ahead = self._ahead.read(op.source)
        (y,), back = self._back.read(op.target)
        if (kept := is_edge(op)) is not None:
            y = y * kept
        shift = ahead + back - self._exponent
        first = shift // 2  # in two steps: 2**shift alone may be out of range
        return x / self._total * 2.0 ** min(first, 1000), y * 2.0 ** min(shift - first, 1000)

    def total(self, op: EdgeOperator) -> float:
        """Sum over the edges of an operator: how many of them a path has on average."""
        budget.check()
        x, y = self.ends(op)
        return op.flow(x, y)

    def by_weight(self, op: EdgeOperator) -> torch.Tensor:
        """float64 per stored weight: the sum of the shares of its edges."""
        budget.check()
        return op.weight_usage(*self.ends(op))

    def largest(self, op: EdgeOperator) -> float:
        """The largest share of one edge of an operator; 0 where it has none on a path."""
        x, y = self.ends(op)
        best = self._best(op, x)
        return float((best * y).max()) if best.numel() else 0.0

    def _best(self, op: EdgeOperator, x: torch.Tensor) -> torch.Tensor:
        """Per target element the largest value among the sources of its edges, 0 where there is no edge.

        By rank, so that whole numbers are compared.
        """
        budget.check()
        if isinstance(op, Identity):
            return x
        if op.source.numel == 0 or op.target.numel == 0:
            return torch.zeros(op.target.shape, dtype=torch.float64)
        values, ranks = torch.unique(x, return_inverse=True)
        found = carry(op, ranks.view(op.source.shape).to(torch.int32), LABELS)
        return torch.where(found >= 0, values[found.clamp(min=0).to(torch.int64)], 0.0)

    def top(self, op: EdgeOperator, count: int) -> list[EdgeShare]:
        """The `count` edges of an operator with the largest shares, the largest first; those of share 0 left out.

        Each of them ends at one of the `count` targets whose largest share is largest.
        """
        x, y = self.ends(op)
        if op.source.numel == 0 or op.target.numel == 0:
            return []
        best = (self._best(op, x) * y).reshape(-1)
        found: list[EdgeShare] = []
        targets = op.target.index().reshape(-1)
        for place in best.topk(min(count, best.numel())).indices.tolist():
            if best[place] <= 0:
                continue
            if isinstance(op, Identity):
                shares = torch.zeros(op.source.numel, dtype=torch.float64)
                shares[place] = best[place]
            else:
                spot = torch.zeros(op.target.numel, dtype=torch.float64)
                spot[place] = 1.0
                meets = op.backward(spot.view(op.target.shape)) > 0.5
                shares = (torch.where(meets, x, 0.0) * y.expand(op.target.shape).reshape(-1)[place]).reshape(-1)
            values, places = shares.topk(min(count, shares.numel()))
            slots = op.source.index().reshape(-1)[places]
            found += [
                EdgeShare(share, slot, int(targets[place]))
                for share, slot in zip(values.tolist(), slots.tolist(), strict=True) if share > 0
            ]  # fmt: skip
        return sorted(found, key=lambda edge: -edge.share)[:count]
