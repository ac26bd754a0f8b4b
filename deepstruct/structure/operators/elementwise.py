"""Identity edges of a merge, and explicit edge lists for what has no better form."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import EdgeOperator, Edges, WeightMode, WeightRef, alive, weights_in


class Identity(EdgeOperator):
    """One structural edge per element, into a merge (a sum, a product, a maximum).

    `fusable` says which elements are linear identity edges into a sum; the post-pass decides which of
    those are no edges at all because the source unit is part of the sum (`fused`). Both are a bool for
    all elements or a boolean tensor.
    """

    def __init__(self, source: Operand, target: Operand, fusable: bool | torch.Tensor = False) -> None:
        self.source, self.target = source, target
        self.fusable: bool | torch.Tensor = fusable
        self.fused: bool | torch.Tensor = False

    def kept(self) -> torch.Tensor | None:
        """Elements whose edge is an edge of the graph; None for all of them."""
        if isinstance(self.fused, torch.Tensor):
            return ~self.fused
        return torch.zeros((), dtype=torch.bool).expand(self.source.shape) if self.fused else None

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return x

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return y

    def fan_in(self) -> int:
        return 1

    def edges(self) -> Iterator[Edges]:
        kept = self.kept()
        index = torch.arange(self.source.numel)
        if kept is not None:
            index = index[kept.reshape(-1)]
        yield Edges(index, index, torch.full((index.numel(),), float("nan"), dtype=torch.float64))

    def bytes(self) -> int:
        return sum(t.numel() for t in (self.fusable, self.fused) if isinstance(t, torch.Tensor))


class Sparse(EdgeOperator):
    """An explicit list of edges between flat elements of source and target.

    `weight`, where given, has one stored weight per edge: shape (edges,).
    """

    def __init__(
        self,
        source: Operand,
        target: Operand,
        rows: torch.Tensor,
        cols: torch.Tensor,
        weight: WeightRef | None = None,
        threshold: float = 0.0,
    ) -> None:
        self.source, self.target, self.weight, self.threshold = source, target, weight, threshold
        self.rows, self.cols = rows, cols  # source element, target element

    def _factor(self, mode: WeightMode, dtype: torch.dtype) -> torch.Tensor | None:
        if self.weight is None or (self.weight.tensor.is_meta and mode == "pattern"):
            return None
        if self.weight.tensor.is_meta:
            return weights_in(self.weight, mode, dtype, self.threshold)  # says that there are no values
        live = alive(self.weight.tensor, self.threshold)
        if mode == "pattern":
            return live.to(dtype)
        values = self.weight.tensor.detach().to(dtype) * live
        return values.abs() if mode == "abs" else values.square() if mode == "square" else values

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        out = torch.zeros(self.target.numel, dtype=x.dtype)
        values, factor = x.reshape(-1)[self.rows], self._factor(mode, x.dtype)
        out.index_add_(0, self.cols, values if factor is None else values * factor)
        return out.reshape(self.target.shape)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        out = torch.zeros(self.source.numel, dtype=y.dtype)
        values, factor = y.reshape(-1)[self.cols], self._factor(mode, y.dtype)
        out.index_add_(0, self.rows, values if factor is None else values * factor)
        return out.reshape(self.source.shape)

    def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        usage = x.reshape(-1)[self.rows] * y.reshape(-1)[self.cols]
        factor = self._factor("pattern", usage.dtype)
        return usage if factor is None else usage * factor

    def fan_in(self) -> int:
        if self.cols.numel() == 0:
            return 0
        return int(torch.bincount(self.cols, minlength=1).max().item())

    def edges(self) -> Iterator[Edges]:
        rows, cols = self.rows, self.cols
        if self.weight is None:
            weight = torch.full((rows.numel(),), float("nan"), dtype=torch.float64)
        elif self.weight.tensor.is_meta:
            weight = torch.ones(rows.numel(), dtype=torch.float64)
        else:
            live = alive(self.weight.tensor, self.threshold)
            rows, cols = rows[live], cols[live]
            weight = self.weight.tensor.detach()[live].to(torch.float64)
        if not self.weighted:
            weight = torch.full_like(weight, float("nan"))
        yield Edges(rows, cols, weight)

    def bytes(self) -> int:
        return 16 * self.rows.numel()
