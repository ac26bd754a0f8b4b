"""y[..., o] = sum over i of x[..., i] M[i, o]: linear layers, batched products, mixes of activations."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepstruct.structure.mask import Mask
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import (
    Edges,
    WeightMode,
    WeightRef,
    alive,
    all_alive,
    few_zeros,
    weights_in,
)
from deepstruct.structure.operators.contraction import Contraction, Live, stamp_of

_CHUNK = 1 << 22  # edges in one piece


class Matmul(Contraction):
    """Edges x[..., i] -> y[..., o] where the matrix entry M[..., i, o] is an edge.

    Args:
        source: operand of shape (*batch, rows, inner).
        target: operand of shape (*batch, rows, outer).
        weight: stored weights of shape (inner, outer) or (*batch, inner, outer); None for a mix of two
            activations, where the edges are structural.
        pattern: boolean matrix (same shapes) of the edges of a mix; None for all-to-all.
        threshold: cut in magnitude below which a weight is no edge.
    """

    _all: tuple[object, bool] | None = None  # of a batch of matrices: whether all their weights are edges

    def __init__(
        self,
        source: Operand,
        target: Operand,
        weight: WeightRef | None = None,
        pattern: torch.Tensor | None = None,
        threshold: float = 0.0,
    ) -> None:
        self.source, self.target, self.weight, self.threshold = source, target, weight, threshold
        self.inner, self.outer = source.shape[-1], target.shape[-1]
        self._mask = None if weight is not None or pattern is None else Mask(pattern)
        self._holes = None
        if weight is not None and not self._dense:
            self._holes = few_zeros(weight.tensor, threshold, None if self.live is None else self.live.total)

    @property
    def live(self) -> Live | None:
        """As for every contraction; None for batches of matrices as well."""
        tensor = None if self.weight is None else self.weight.tensor
        return None if tensor is None or tensor.dim() != 2 or 0 in tensor.stride() else super().live

    def _read(self, ref: WeightRef) -> Live:
        return Live(ref.tensor.T if self.outer_first else ref.tensor, self.threshold)

    @property
    def outer_first(self) -> bool:
        """Whether the weights lie in memory as (outer, inner), as those of linear layers do."""
        matrix = None if self.weight is None else self.weight.tensor
        return (
            matrix is not None and matrix.dim() == 2 and matrix.stride(0) == 1 and matrix.stride(1) >= matrix.shape[0]
        )

    @property
    def _dense(self) -> bool:
        if self.weight is None:
            return self._mask is None
        if self.live is not None:
            return self.live.dense
        stamp = stamp_of(self.weight.tensor)
        if self._all is None or self._all[0] != stamp:
            self._all = stamp, all_alive(self.weight.tensor, self.threshold)
        return self._all[1]

    @property
    def pattern(self) -> torch.Tensor | None:
        """Boolean matrix of the edges of a mix; None where they are all-to-all or weights."""
        return None if self._mask is None else self._mask.matrix

    @property
    def running(self) -> bool:
        """Whether the pattern is that of a causal mask, so that products are running sums."""
        return self._mask is not None and self._mask.stairs

    @property
    def dense(self) -> bool:
        """Whether every entry is an edge, so that products are sums."""
        return self._dense

    def _matrix(self, mode: WeightMode, dtype: torch.dtype) -> torch.Tensor:
        assert self.weight is not None
        return weights_in(self.weight, mode, dtype, self.threshold)

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        if self._dense and (mode == "pattern" or self.weight is None):
            return x.sum(-1, keepdim=True).expand(*x.shape[:-1], self.outer)
        if self._holes is not None and mode == "pattern" and self._holes.shape[1] == 2:
            inner, outer = self._holes.T
            full = x.sum(-1, keepdim=True).expand(*x.shape[:-1], self.outer)
            return full.index_add(-1, outer, x[..., inner], alpha=-1)
        if self._mask is not None:
            return self._mask.forward(x)
        return x @ self._matrix(mode, x.dtype)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        if self._dense and (mode == "pattern" or self.weight is None):
            return y.sum(-1, keepdim=True).expand(*y.shape[:-1], self.inner)
        if self._holes is not None and mode == "pattern" and self._holes.shape[1] == 2:
            inner, outer = self._holes.T
            full = y.sum(-1, keepdim=True).expand(*y.shape[:-1], self.inner)
            return full.index_add(-1, inner, y[..., outer], alpha=-1)
        if self._mask is not None:
            return self._mask.backward(y)
        return y @ self._matrix(mode, y.dtype).transpose(-1, -2)

    def touches(self, units: torch.Tensor) -> torch.Tensor:
        if self._mask is None:
            return units.any(-1, keepdim=True).expand(*units.shape[:-1], self.outer)
        return super().touches(units)

    def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None
        tensor = self.weight.tensor
        if tensor.dim() == 2:
            usage = x.reshape(-1, self.inner).T @ y.reshape(-1, self.outer)
        else:
            usage = (x.transpose(-1, -2) @ y).sum_to_size(tensor.shape)
        return usage if tensor.is_meta else usage * alive(tensor, self.threshold)

    def used_weights(self) -> torch.Tensor:
        assert self.weight is not None
        tensor = self.weight.tensor
        if tensor.is_meta or self.source.numel == 0:
            return torch.full((), self.source.numel > 0, dtype=torch.bool).expand(tensor.shape)
        return alive(tensor, self.threshold)

    def fan_in(self) -> int:
        return self.inner

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        if source_ok is None and target_ok is None:
            rows = self.source.numel // max(self.inner, 1)
            if self._dense:
                return rows * self.inner * self.outer
            if self.live is not None:
                return rows * self.live.total
            live = (
                alive(self.weight.tensor, self.threshold) if self.weight is not None else self.pattern
            )
            assert live is not None
            if live.dim() == 2:
                return rows * int(torch.count_nonzero(live))
            shape = (*self.source.shape[:-2], self.inner, self.outer)
            return self.source.shape[-2] * int(torch.count_nonzero(live.expand(shape)))
        return super().count(source_ok, target_ok)

    def edges(self) -> Iterator[Edges]:
        rows_shape = self.source.shape[:-1]
        rows = torch.arange(self.source.numel // max(self.inner, 1))
        if self.weight is None:
            pattern = self.pattern
            matrix = torch.ones(self.inner, self.outer, dtype=torch.bool) if pattern is None else pattern
        else:
            matrix = self.weight.tensor
        if matrix.is_meta:
            matrix = torch.ones(matrix.shape, dtype=torch.bool)
        live = alive(matrix, self.threshold)
        if matrix.dim() == 2:
            inner, outer = live.nonzero(as_tuple=True)
            yield from self._pieces(rows, inner, outer, matrix[inner, outer])
            return
        batch = self.source.shape[:-2]
        live, matrix = (m.expand(*batch, self.inner, self.outer) for m in (live, matrix))
        live, matrix = (m.reshape(-1, self.inner, self.outer) for m in (live, matrix))
        per = rows.reshape(live.shape[0], rows_shape[-1])
        for b in range(live.shape[0]):
            inner, outer = live[b].nonzero(as_tuple=True)
            yield from self._pieces(per[b], inner, outer, matrix[b][inner, outer])

    def _pieces(
        self, rows: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor, weight: torch.Tensor
    ) -> Iterator[Edges]:
        if inner.numel() == 0 or rows.numel() == 0:
            return
        values = weight.detach().to(torch.float64)
        if not self.weighted:
            values = torch.full_like(values, float("nan"))
        step = max(1, _CHUNK // inner.numel())
        for start in range(0, rows.numel(), step):
            part = rows[start : start + step]
            source = (part[:, None] * self.inner + inner).reshape(-1)
            target = (part[:, None] * self.outer + outer).reshape(-1)
            yield Edges(source, target, values.expand(part.numel(), -1).reshape(-1))

    def bytes(self) -> int:
        return 0 if self._mask is None else self._mask.matrix.numel()
