"""Edges between two groups of channels as a map over the stored weights themselves: no matrix of edges."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import Edges, WeightMode, WeightRef, all_alive, few_zeros, weights_in
from deepstruct.structure.operators.matmul import Matmul

_AT_ONCE = 1 << 20  # weights that are looked at together: few enough not to tear the heap


@dataclass(frozen=True, eq=False)
class Slice:
    """Stored weights between channels: entry (i, o, tap) joins channel rows[i] to channel columns[o].

    Attributes:
        ref: weights of shape (inner, outer, *taps).
        threshold: cut in magnitude below which a weight is no edge.
        rows: int64 (inner,), positions among the source channels; several entries may be one channel.
        columns: int64 (outer,), positions among the target channels.
        counts: float64 (taps,), how many edges each weight stands for, by tap in row-major order.
        dense: whether every weight is known to be an edge.
    """

    ref: WeightRef
    threshold: float
    rows: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor
    dense: bool = False

    def amounts(self, outer: slice | torch.Tensor) -> torch.Tensor:
        """float64 (inner, chosen outer): the sum of |w| over the edges of each pair. MetricError without values."""
        tensor = self.ref.tensor[:, outer]
        magnitude = weights_in(self.ref._replace(tensor=tensor), "abs", torch.float64, self.threshold)
        if magnitude.dim() == 2:
            return magnitude * self.counts[0]
        used = self.counts > 0  # a tap that reads nothing makes no edge, not even of an infinite weight
        return (magnitude.flatten(2)[..., used] * self.counts[used]).sum(-1)

    def same_weights(self, other: Slice) -> bool:
        """Whether both are the same stored weights between the same channels."""
        a, b = self.ref.tensor, other.ref.tensor
        return (
            self.ref.key == other.ref.key
            and (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())
            and (a.is_meta or a.data_ptr() == b.data_ptr())
            and self.threshold == other.threshold
            and torch.equal(self.rows, other.rows)
            and torch.equal(self.columns, other.columns)
        )

    def holes(self, width: int) -> torch.Tensor | None:
        """int64 codes row * width + column of the pairs without an edge, ascending; None where many are zero."""
        if self.dense:
            return torch.empty(0, dtype=torch.int64)
        used = self.counts > 0
        dead = few_zeros(self.ref.tensor, self.threshold)
        if dead is None:
            return torch.empty(0, dtype=torch.int64) if all_alive(self.ref.tensor, self.threshold) else None
        if dead.shape[1] > 2:
            tap = torch.zeros(dead.shape[0], dtype=torch.int64)
            for axis, n in enumerate(self.ref.tensor.shape[2:]):
                tap = tap * n + dead[:, 2 + axis]
            dead = dead[used[tap]]
        codes = self.rows[dead[:, 0]] * width + self.columns[dead[:, 1]]
        codes, times = torch.unique(codes, return_counts=True)
        entries = torch.bincount(self.rows) * int(used.sum())  # how many weights stand behind each pair of a row
        return codes[times == entries[codes.div(width, rounding_mode="floor")]]


class Channels(Matmul):
    """All-to-all edges from n to m channels, but for a few holes, whose weights are computed when they are asked for.

    An edge carries the sum of |w| over the edges of zeroth order that it stands for; that of several slices
    is added up. Without values (meta device) patterns are known and weights are not.

    Args:
        source, target: operands of shape (1, n) and (1, m).
        slices: each covers all n x m pairs; the columns of each are a permutation of 0 ... m - 1.
        key: names the weights of this operator.
        holes: int64 codes row * m + column of the pairs that are no edges.
    """

    def __init__(
        self, source: Operand, target: Operand, slices: Sequence[Slice], key: tuple[object, ...], holes: torch.Tensor
    ) -> None:
        super().__init__(source, target)
        self.slices, self.key, self._codes = list(slices), key, holes
        self._made: weakref.ref[torch.Tensor] | None = None
        self._order = [None if _ascending(s.columns) else torch.argsort(s.columns) for s in self.slices]

    @property
    def unknown(self) -> bool:
        """Whether the weights have no values."""
        return any(s.ref.tensor.is_meta for s in self.slices)

    @property
    def weighted(self) -> bool:
        return True

    @property
    def live(self) -> None:
        """None: the weights are not stored."""
        return None

    @property
    def _dense(self) -> bool:
        return self._codes.numel() == 0

    @property
    def weight(self) -> WeightRef:
        """The sums of |w| as a float32 matrix, made anew: for readers that need all of it at once."""
        made = None if self._made is None else self._made()
        if made is None:
            if self.unknown:
                made = torch.empty(self.inner, self.outer, device="meta")
            else:
                made = torch.empty(self.inner, self.outer)
                tiny = torch.finfo(torch.float32).tiny  # an edge stays one, however small its weight
                for start, stop, amounts in self.pieces():
                    made[:, start:stop] = amounts.clamp(min=tiny)
                if self._codes.numel():
                    made.view(-1)[self._codes] = 0
            self._made = weakref.ref(made)
        return WeightRef(self.key, made)

    @weight.setter
    def weight(self, value: WeightRef | None) -> None:
        """The base class sets None: there is nothing to keep."""

    def pieces(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(first column, end, float64 (n, columns)) of the sums of |w|. MetricError without values."""
        inner = max(max((s.ref.tensor[:, 0].numel() for s in self.slices if s.ref.tensor.shape[1]), default=1), 1)
        step = max(1, _AT_ONCE // inner)
        row, column = (None, None) if self._dense else self._places()
        for start in range(0, self.outer, step):
            stop = min(start + step, self.outer)
            total: torch.Tensor | None = None
            for part, order in zip(self.slices, self._order, strict=True):
                amounts = part.amounts(slice(start, stop) if order is None else order[start:stop])
                if not _ascending(part.rows):
                    amounts = torch.zeros(self.inner, stop - start, dtype=torch.float64).index_add_(
                        0, part.rows, amounts
                    )
                total = amounts if total is None else total + amounts
            assert total is not None
            if row is not None and column is not None:
                here = (column >= start) & (column < stop)
                total[row[here], column[here] - start] = 0
            yield start, stop, total

    def total(self) -> float:
        """Sum of the weights of all edges. MetricError without values."""
        return sum(float(amounts.sum()) for _, _, amounts in self.pieces())

    def _places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each hole."""
        return self._codes.div(self.outer, rounding_mode="floor"), self._codes.remainder(self.outer)

    def _corrected(self, values: torch.Tensor, out: torch.Tensor, transpose: bool) -> torch.Tensor:
        """`out` of the all-to-all pattern without what would pass through the holes."""
        if self._dense:
            return out
        row, column = self._places()
        here, there = (column, row) if transpose else (row, column)
        return out.index_add(-1, there, values[..., here], alpha=-1)

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        if mode == "pattern":
            out = x.sum(-1, keepdim=True, dtype=x.dtype).expand(*x.shape[:-1], self.outer)
            return self._corrected(x, out, transpose=False)
        parts = [x @ _powered(amounts, mode).to(x.dtype) for _, _, amounts in self.pieces()]
        return torch.cat(parts, -1) if parts else x.new_zeros(*x.shape[:-1], 0)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        if mode == "pattern":
            out = y.sum(-1, keepdim=True, dtype=y.dtype).expand(*y.shape[:-1], self.inner)
            return self._corrected(y, out, transpose=True)
        total = torch.zeros(*y.shape[:-1], self.inner, dtype=y.dtype)
        for start, stop, amounts in self.pieces():
            total += y[..., start:stop] @ _powered(amounts, mode).to(y.dtype).T
        return total

    def _joined(self) -> torch.Tensor:
        live = torch.ones(self.inner * self.outer, dtype=torch.bool)
        live[self._codes] = False
        return live.view(self.inner, self.outer)

    def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        usage = x.reshape(-1, self.inner).T @ y.reshape(-1, self.outer)
        return usage if self._dense else usage * self._joined()

    def used_weights(self) -> torch.Tensor:
        if self._dense:
            return torch.ones((), dtype=torch.bool).expand(self.inner, self.outer)
        return self._joined()

    def touches(self, units: torch.Tensor) -> torch.Tensor:
        return units.any(-1, keepdim=True).expand(*units.shape[:-1], self.outer)

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        if source_ok is None and target_ok is None:
            return self.inner * self.outer - self._codes.numel()
        ones = torch.ones((), dtype=torch.float64)
        x = ones.expand(self.source.shape) if source_ok is None else source_ok.to(torch.float64)
        y = ones if target_ok is None else target_ok.to(torch.float64)
        return round(float((self.forward(x) * y).sum()))

    def edges(self) -> Iterator[Edges]:
        """Pairs that are edges with their sums of |w|; 1 where the weights have no values."""
        step = max(1, _AT_ONCE // max(self.inner, 1))
        known = None if self.unknown else self.pieces()
        if known is None:
            one = torch.ones((), dtype=torch.float64)
            known = (
                (a, min(a + step, self.outer), one.expand(self.inner, min(a + step, self.outer) - a))
                for a in range(0, self.outer, step)
            )
        live = None if self._dense else self._joined()
        for start, stop, amounts in known:
            if live is None:
                row, column = (t.reshape(-1) for t in torch.meshgrid(
                    torch.arange(self.inner), torch.arange(stop - start), indexing="ij"))  # fmt: skip
            else:
                row, column = live[:, start:stop].nonzero(as_tuple=True)
            yield Edges(row, column + start, amounts[row, column])

    def bytes(self) -> int:
        return 8 * (self._codes.numel() + sum(s.rows.numel() + s.columns.numel() for s in self.slices))


def _ascending(places: torch.Tensor) -> bool:
    """Whether it is 0, 1, 2, ..."""
    return bool((places == torch.arange(places.numel())).all())


def _powered(amounts: torch.Tensor, mode: WeightMode) -> torch.Tensor:
    return amounts.square() if mode == "square" else amounts
