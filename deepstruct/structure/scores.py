"""Attention scores as one implicit block of units: a value per row and per column instead of one per pair.

Score (h, i, j) reads the query row i and the key row j of head h, and is read by the output row i alone. So
what a pass leaves on it always has the form r[h, i] (+) c[h, j] on the pairs that the mask keeps, with the
addition of the semiring. A space of scores therefore holds the *carriers* r and c as its slots: rows + columns
of them for each head, in place of rows x columns units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.mask import Mask

Join = Literal["sum", "or", "max", "min"]

_PIECE = 1 << 22  # units that are written down at once
_GROUPS = 1 << 16  # pairs of distinct carriers that are counted rather than written down


@dataclass(frozen=True, eq=False)
class Scores:
    """The units (*lead, rows, columns) of one attention layer, and which of them there are.

    Slots are numbered (*lead, rows + columns): for each head its row carriers, then its column carriers.

    Attributes:
        mask: the pairs that are units (None: all), as a matrix (rows, columns).
    """

    lead: tuple[int, ...]
    rows: int
    columns: int
    mask: Mask | None = None

    @property
    def heads(self) -> int:
        return math.prod(self.lead)

    @property
    def carriers(self) -> int:
        """Slots that it takes."""
        return self.heads * (self.rows + self.columns)

    @cached_property
    def row_counts(self) -> torch.Tensor:
        """float64, broadcastable to (*lead, rows): units in each row."""
        if self.mask is None:
            return torch.full((self.rows,), float(self.columns), dtype=torch.float64)
        return self.mask.matrix.sum(-1).to(torch.float64)

    @cached_property
    def column_counts(self) -> torch.Tensor:
        """float64, broadcastable to (*lead, columns): units in each column."""
        if self.mask is None:
            return torch.full((self.columns,), float(self.rows), dtype=torch.float64)
        return self.mask.matrix.sum(-2).to(torch.float64)

    @cached_property
    def num_units(self) -> int:
        return int(self.row_counts.expand(*self.lead, self.rows).sum())

    def split(self, carriers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the row and the column part of a vector of carriers (*lead, rows + columns), or flat."""
        shaped = carriers.reshape(*self.lead, self.rows + self.columns)
        return shaped[..., : self.rows], shaped[..., self.rows :]

    def joined(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Carriers (*lead, rows + columns) from their two parts."""
        parts = [rows.expand(*self.lead, self.rows), columns.expand(*self.lead, self.columns)]
        return torch.cat(parts, -1)

    def along_rows(self, columns: torch.Tensor) -> torch.Tensor:
        """(*lead, rows): for each row the sum of the column carriers of its units."""
        if self.mask is None:
            return columns.sum(-1, keepdim=True).expand(*columns.shape[:-1], self.rows)
        return self.mask.backward(columns.unsqueeze(-2)).squeeze(-2)

    def along_columns(self, rows: torch.Tensor) -> torch.Tensor:
        """(*lead, columns): for each column the sum of the row carriers of its units."""
        if self.mask is None:
            return rows.sum(-1, keepdim=True).expand(*rows.shape[:-1], self.columns)
        return self.mask.forward(rows.unsqueeze(-2)).squeeze(-2)

    def sum_of_rows(self, carriers: torch.Tensor) -> torch.Tensor:
        """(*lead, rows): for each row the sum of its units' values, r_i + c_j."""
        r, c = self.split(carriers)
        return _times(r, self.row_counts) + self.along_rows(c)

    def sum_of_columns(self, carriers: torch.Tensor) -> torch.Tensor:
        """(*lead, columns): for each column the sum of its units' values, r_i + c_j."""
        r, c = self.split(carriers)
        return _times(c, self.column_counts) + self.along_columns(r)

    def marked_in_rows(self, carriers: torch.Tensor) -> torch.Tensor:
        """(*lead, rows): for each row the number of its units that either carrier (0 or 1) marks."""
        r, c = self.split(carriers)
        return torch.where(r > 0.5, self.row_counts.to(c.dtype), self.along_rows(c))

    def marked_in_columns(self, carriers: torch.Tensor) -> torch.Tensor:
        """(*lead, columns): for each column the number of its units that either carrier (0 or 1) marks."""
        r, c = self.split(carriers)
        return torch.where(c > 0.5, self.column_counts.to(r.dtype), self.along_columns(r))

    def best(self, carriers: torch.Tensor, by_row: bool, largest: bool, nothing: float) -> torch.Tensor:
        """(*lead, rows or columns): the largest (or smallest) of each row's (column's) units, max(r_i, c_j)."""
        r, c = self.split(carriers)
        own, other = (r, c) if by_row else (c, r)
        counts = self.row_counts if by_row else self.column_counts
        empty = torch.tensor(nothing, dtype=carriers.dtype)
        own = torch.where(counts > 0, own, empty)
        if self.mask is None:
            across = other.amax(-1, keepdim=True) if largest else other.amin(-1, keepdim=True)
        else:
            found = []
            for kept, here in zip(self.kept_by_head(), other.reshape(self.heads, -1), strict=True):
                units = torch.where(kept if by_row else kept.T, here, empty)
                found.append(units.amax(-1) if largest else units.amin(-1))
            across = torch.stack(found).view(own.shape)
        return torch.maximum(own, across) if largest else torch.minimum(own, across)

    # -- from carriers to units

    def total(self, carriers: torch.Tensor) -> float:
        """Sum over the units of r_i + c_j."""
        r, c = self.split(carriers.to(torch.float64))
        return float(_times(r, self.row_counts).sum() + _times(c, self.column_counts).sum())

    def dot(self, left: torch.Tensor, right: torch.Tensor) -> float:
        """Sum over the units of (r_i + c_j) (r'_i + c'_j)."""
        (r, c), (s, d) = self.split(left.to(torch.float64)), self.split(right.to(torch.float64))
        straight = _times(r * s, self.row_counts).sum() + _times(c * d, self.column_counts).sum()
        return float(straight + (r * self.along_rows(d)).sum() + (s * self.along_rows(c)).sum())

    def kept(self) -> torch.Tensor:
        """Boolean (*lead, rows, columns), a broadcast view: which pairs are units."""
        if self.mask is None:
            return torch.ones((), dtype=torch.bool).expand(*self.lead, self.rows, self.columns)
        return self.mask.matrix.expand(*self.lead, self.rows, self.columns)

    def kept_by_head(self) -> Iterator[torch.Tensor]:
        """Boolean (rows, columns) for one head after the other."""
        kept = self.kept()
        for index in itertools.product(*map(range, self.lead)):
            yield kept[index]

    def values(self, carriers: torch.Tensor, join: Join) -> torch.Tensor:
        """One value per unit, in row-major order of (*lead, rows, columns)."""
        pieces = [values[0] for values in self._pieces([carriers], [join])]
        return torch.cat(pieces) if pieces else carriers.new_empty(0)

    def blocks(
        self, vectors: Sequence[torch.Tensor], joins: Sequence[Join]
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor | None]]:
        """The units' values of several vectors of carriers, in pieces: (one array per vector, counts).

        Where few carriers differ, each combination of values comes once, with the number of its units; otherwise
        one entry per unit, and counts are None.
        """
        grouped = self._grouped(vectors, joins)
        if grouped is not None:
            yield grouped
            return
        for values in self._pieces(vectors, joins):
            yield values, None

    def _pieces(self, vectors: Sequence[torch.Tensor], joins: Sequence[Join]) -> Iterator[list[torch.Tensor]]:
        parts = [tuple(p.reshape(self.heads, -1) for p in self.split(v)) for v in vectors]
        step = max(1, _PIECE // max(self.columns, 1))
        for head, kept in enumerate(self.kept_by_head()):
            for start in range(0, self.rows, step):
                keep = kept[start : start + step]
                yield [
                    JOINS[join](r[head, start : start + step, None], c[head, None, :])[keep]
                    for (r, c), join in zip(parts, joins, strict=True)
                ]

    def _grouped(
        self, vectors: Sequence[torch.Tensor], joins: Sequence[Join]
    ) -> tuple[list[torch.Tensor], torch.Tensor] | None:
        rows, columns = [], []
        for vector in vectors:
            r, c = self.split(vector)
            rows.append(r)
            columns.append(c)
        row_kinds, row_of = _kinds(rows)
        column_kinds, column_of = _kinds(columns)
        a, b = row_kinds[0].numel(), column_kinds[0].numel()
        if a * b > _GROUPS or min(a, b) > 32:
            return None
        row_of, column_of = row_of.view(*self.lead, self.rows), column_of.view(*self.lead, self.columns)
        counts = torch.zeros(a, b, dtype=torch.float64)
        if b <= a:
            for k in range(b):
                amount = self.along_rows((column_of == k).to(torch.float64))
                counts[:, k].index_add_(0, row_of.reshape(-1), amount.expand(row_of.shape).reshape(-1))
        else:
            for k in range(a):
                amount = self.along_columns((row_of == k).to(torch.float64))
                counts[k].index_add_(0, column_of.reshape(-1), amount.expand(column_of.shape).reshape(-1))
        present = counts > 0
        found = [
            JOINS[join](r[:, None], c[None, :])[present]
            for r, c, join in zip(row_kinds, column_kinds, joins, strict=True)
        ]
        return found, counts[present].to(torch.int64)


def _kinds(parts: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The distinct combinations of values of several vectors, and which of them each element has."""
    code = torch.zeros(parts[0].numel(), dtype=torch.int64)
    for part in parts:
        values, inverse = torch.unique(part.reshape(-1), return_inverse=True)
        code = torch.unique(code * values.numel() + inverse, return_inverse=True)[1]
    count = int(code.max()) + 1 if code.numel() else 0
    first = torch.zeros(count, dtype=torch.int64)
    first[code] = torch.arange(code.numel())
    return [part.reshape(-1)[first] for part in parts], code


def _times(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """values * counts, and 0 where there is nothing to count, also for values that overflowed to infinity."""
    return torch.where(counts > 0, values * counts.to(values.dtype), 0)


def _least(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The smaller of two values; of whole numbers, which are lengths of paths, -1 is no length."""
    if a.is_floating_point():
        return torch.minimum(a, b)
    return torch.where(a < 0, b, torch.where(b < 0, a, torch.minimum(a, b)))


JOINS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "sum": torch.add,
    "or": torch.logical_or,
    "max": torch.maximum,
    "min": _least,
}


def natural_join(values: torch.Tensor) -> Join:
    """How carriers of this dtype combine unless the caller says otherwise: truth by "or", numbers by "sum".

    Raises StructureError for int32, which lengths of paths are: the longest combine by "max", the shortest by "min".
    """
    if values.dtype == torch.int32:
        raise StructureError('whole numbers of 32 bits are lengths of paths: say join="max" or join="min" for scores')
    return "or" if values.dtype == torch.bool else "sum"
