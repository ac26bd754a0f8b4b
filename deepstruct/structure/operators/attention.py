"""Edges into and out of implicit attention scores (see `structure.scores`).

Values on the score side are carriers (*lead, rows + columns). The operators are adjoint on the true units: a
query has one edge to every score of its row, whatever the number of carriers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import EdgeOperator, Edges, WeightMode
from deepstruct.structure.scores import Scores

_CHUNK = 1 << 22  # edges in one piece


class ScoreOperator(EdgeOperator):
    """Structural edges with implicit scores on one side.

    `edges()` numbers the score side by unit, flat in (*lead, rows, columns), not by carrier; so that the
    node of an edge's end is found in `StructureGraph.element_nodes`.
    """

    scores: Scores

    def bytes(self) -> int:
        return 0 if self.scores.mask is None else self.scores.mask.matrix.numel()

    def _pairs(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Per head the rows and columns of its units, in pieces."""
        step = max(1, _CHUNK // max(self.scores.columns * self._width(), 1))
        for head, kept in enumerate(self.scores.kept_by_head()):
            for start in range(0, self.scores.rows, step):
                i, j = kept[start : start + step].nonzero(as_tuple=True)
                if i.numel():
                    yield head, i + start, j

    def _width(self) -> int:
        """Length of the feature axis on the other side."""
        raise NotImplementedError

    def best(self, values: torch.Tensor, transpose: bool, largest: bool, nothing: float) -> torch.Tensor:
        """The largest (or smallest) value that the edges bring, `nothing` where none does; `forward` for that."""
        by_row, other = not isinstance(self, KeyScores), self.target if isinstance(self, ScoreOutputs) else self.source
        if isinstance(self, ScoreOutputs) != transpose:  # from carriers
            return self.scores.best(values, by_row, largest, nothing).unsqueeze(-1).expand(other.shape)
        found = values.amax(-1) if largest else values.amin(-1)
        empty = torch.tensor(nothing, dtype=values.dtype)
        return self.scores.joined(found, empty) if by_row else self.scores.joined(empty, found)

    def _edge_pieces(self, into: bool, by_row: bool) -> Iterator[Edges]:
        width, feature = self._width(), torch.arange(self._width())
        side = self.scores.rows if by_row else self.scores.columns
        for head, i, j in self._pairs():
            unit = (head * self.scores.rows + i) * self.scores.columns + j
            place = head * side + (i if by_row else j)
            other = (place[:, None] * width + feature).reshape(-1)
            here = unit[:, None].expand(-1, width).reshape(-1)
            nan = torch.full((here.numel(),), float("nan"), dtype=torch.float64)
            yield Edges(other, here, nan) if into else Edges(here, other, nan)


class _IntoScores(ScoreOperator):
    """Every feature of a query (or key) row to every score of that row (or column)."""

    by_row = True

    def __init__(self, source: Operand, target: Operand, scores: Scores) -> None:
        self.source, self.target, self.scores = source, target, scores

    def _width(self) -> int:
        return self.source.shape[-1]

    def _placed(self, part: torch.Tensor) -> torch.Tensor:
        """Carriers with a value per row (or column) and nothing on the other part."""
        nothing = torch.zeros((), dtype=part.dtype)
        return self.scores.joined(part, nothing) if self.by_row else self.scores.joined(nothing, part)

    def _sums(self, carriers: torch.Tensor) -> torch.Tensor:
        return self.scores.sum_of_rows(carriers) if self.by_row else self.scores.sum_of_columns(carriers)

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self._placed(x.sum(-1))

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self._sums(y).unsqueeze(-1).expand(self.source.shape)

    def flow(self, x: torch.Tensor, y: torch.Tensor, mode: WeightMode = "pattern") -> float:
        return float((x.sum(-1).to(torch.float64) * self._sums(y).to(torch.float64)).sum())

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        scores = self.scores
        lead = (*scores.lead, scores.rows if self.by_row else scores.columns)
        if target_ok is None:
            pairs = scores.row_counts if self.by_row else scores.column_counts
        else:
            marks = target_ok.to(torch.float64)
            pairs = scores.marked_in_rows(marks) if self.by_row else scores.marked_in_columns(marks)
        features = torch.tensor(float(self._width()), dtype=torch.float64)
        if source_ok is not None:
            features = source_ok.sum(-1).to(torch.float64)
        return int((features * pairs).expand(lead).sum().item())

    def fan_in(self) -> int:
        return self._width()

    def edges(self) -> Iterator[Edges]:
        yield from self._edge_pieces(into=True, by_row=self.by_row)


class QueryScores(_IntoScores):
    """Queries (*lead, rows, features) to scores: each row to the scores of that row."""


class KeyScores(_IntoScores):
    """Keys (*lead, columns, features) to scores: each row to the scores of that column."""

    by_row = False


class ScoreOutputs(ScoreOperator):
    """Scores to outputs (*lead, rows, features): the scores of a row to all features of that row."""

    def __init__(self, source: Operand, target: Operand, scores: Scores) -> None:
        self.source, self.target, self.scores = source, target, scores

    def _width(self) -> int:
        return self.target.shape[-1]

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self.scores.sum_of_rows(x).unsqueeze(-1).expand(self.target.shape)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        return self.scores.joined(y.sum(-1), torch.zeros((), dtype=y.dtype))

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        scores = self.scores
        pairs = scores.row_counts
        if source_ok is not None:
            pairs = scores.marked_in_rows(source_ok.to(torch.float64))
        features = torch.tensor(float(self._width()), dtype=torch.float64)
        if target_ok is not None:
            features = target_ok.sum(-1).to(torch.float64)
        return int((features * pairs).expand(*scores.lead, scores.rows).sum().item())

    def fan_in(self) -> int:
        return 2 * self.scores.columns  # terms of the sum that is computed: a row and a column part per unit

    def edges(self) -> Iterator[Edges]:
        yield from self._edge_pieces(into=False, by_row=True)
