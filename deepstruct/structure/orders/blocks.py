"""The edges between two groups of nodes of a quotient, collected until they are made into operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Channels, EdgeOperator, Matmul, Slice, Sparse, WeightRef
from deepstruct.structure.orders.labelling import distinct
from deepstruct.structure.orders.pairs import Product

_FEW = 64  # a product whose edges are fewer by this factor than its weights is summed up at once


@dataclass(eq=False)
class Rectangle:
    """All pairs of some sources and some targets, but for holes, through slices of stored weights.

    `sources` and `targets` are ascending places in the groups; the slices and the holes count within them.
    """

    sources: torch.Tensor
    targets: torch.Tensor
    slices: list[Slice]
    holes: torch.Tensor

    def covers(self, other: Rectangle) -> bool:
        return torch.equal(self.sources, other.sources) and torch.equal(self.targets, other.targets)

    def meets(self, other: Rectangle) -> bool:
        """Whether some pair is in both."""
        rows = bool(torch.isin(self.sources, other.sources).any())
        return rows and bool(torch.isin(self.targets, other.targets).any())

    def take_in(self, other: Rectangle) -> None:
        """The union with another one over the same pairs; the same weights count more often."""
        self.holes = self.holes[torch.isin(self.holes, other.holes)]
        for new in other.slices:
            for k, old in enumerate(self.slices):
                if old.same_weights(new):
                    self.slices[k] = Slice(
                        old.ref, old.threshold, old.rows, old.columns, old.counts + new.counts, old.dense
                    )
                    break
            else:
                self.slices.append(new)


@dataclass(eq=False)
class Block:
    """Edges between two groups: pairs, a matrix once pairs would take more room, or weights that stay where they are.

    Args:
        shape: number of nodes of the two groups.
        weighted: whether the edges carry weights, which are added up.
        within: whether both groups are the same one: pairs (k, k) are self-loops, noted and dropped.
    """

    shape: tuple[int, int]
    weighted: bool
    within: bool
    codes: list[torch.Tensor] = field(default_factory=list)
    amounts: list[torch.Tensor] = field(default_factory=list)
    matrix: torch.Tensor | None = None
    rectangles: list[Rectangle] = field(default_factory=list)
    full: bool = False
    unknown: bool = False
    loops: set[int] = field(default_factory=set)

    # -- collecting

    def add_pairs(
        self, source: torch.Tensor, target: torch.Tensor, amount: torch.Tensor | None, unknown: bool = False
    ) -> None:
        """Edges one by one, each pair at most once; structural ones have no amount."""
        if self.within:
            self._note_loops(source[source == target])
            across = source != target
            source, target, amount = source[across], target[across], None if amount is None else amount[across]
        if source.numel() == 0 or self.full:
            return
        self.unknown |= unknown
        codes = source * self.shape[1] + target
        amount = torch.ones(codes.numel(), dtype=torch.float64) if amount is None else amount
        if self.matrix is not None:
            self.matrix.view(-1).index_add_(0, codes, _stored(amount))
            return
        self.codes.append(codes)
        self.amounts.append(amount)
        if 4 * sum(c.numel() for c in self.codes) > self.shape[0] * self.shape[1] and not self.unknown:
            self._to_matrix()

    def add_matrix(self, sources: torch.Tensor, targets: torch.Tensor, amounts: torch.Tensor) -> None:
        """Edges as a float64 matrix over ascending places in the groups; 0 is no edge."""
        if self.within:
            same = (sources[:, None] == targets[None, :]).nonzero(as_tuple=True)
            self._note_loops(sources[same[0]][amounts[same] != 0])
            amounts = amounts.index_put(same, torch.zeros((), dtype=amounts.dtype))
        total = self.shape[0] * self.shape[1]
        if self.matrix is None and 4 * int(torch.count_nonzero(amounts)) <= total:
            row, column = amounts.nonzero(as_tuple=True)
            self.add_pairs(sources[row], targets[column], amounts[row, column])
            return
        if self.unknown:
            row, column = amounts.nonzero(as_tuple=True)
            self.codes.append(sources[row] * self.shape[1] + targets[column])
            self.amounts.append(amounts[row, column])
            return
        if self.matrix is None:
            self._to_matrix()
        assert self.matrix is not None
        if amounts.shape == self.matrix.shape:
            self.matrix += _stored(amounts)
        else:
            self.matrix.index_put_((sources[:, None], targets[None, :]), _stored(amounts), accumulate=True)

    def add_full(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """All pairs of ascending places in the groups, structurally."""
        if (sources.numel(), targets.numel()) == self.shape and not self.within:
            self.full, self.codes, self.amounts, self.matrix = True, [], [], None
            return
        row, column = torch.meshgrid(sources, targets, indexing="ij")
        self.add_pairs(row.reshape(-1), column.reshape(-1), None)

    def add_product(self, product: Product, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Edges through stored weights between places in the groups.

        They stay where they are if nearly all of them are edges, and are written down otherwise.
        """
        if product.empty():
            return
        sources, row = _ranked(rows)
        targets, column = _ranked(columns)
        shape = (sources.numel(), targets.numel())
        inner, outer = product.ref.tensor.shape[:2]
        if product.weighted and shape[1] == outer and _FEW * shape[0] * shape[1] > inner * outer:
            part = product.slice(row, column)
            holes = part.holes(shape[1])
            if holes is not None and not (self.within and product.unknown):
                self._add_rectangle(Rectangle(sources, targets, [part], holes))
                return
        if product.unknown:
            a, b = torch.meshgrid(sources, targets, indexing="ij")
            ones = torch.ones(a.numel(), dtype=torch.float64) if product.weighted else None
            self.add_pairs(a.reshape(-1), b.reshape(-1), ones, product.weighted)
            return
        self.add_matrix(sources, targets, product.matrix(row, column, shape))

    def _add_rectangle(self, new: Rectangle) -> None:
        if self.within:
            width = new.targets.numel()
            row, column = (new.sources[:, None] == new.targets[None, :]).nonzero(as_tuple=True)
            loops = row * width + column
            fresh = ~torch.isin(loops, new.holes)
            self._note_loops(new.sources[row[fresh]])
            new.holes = torch.cat([new.holes, loops[fresh]]).sort().values
        for old in self.rectangles:
            if old.covers(new):
                old.take_in(new)
                return
        self.rectangles.append(new)

    def _note_loops(self, places: torch.Tensor) -> None:
        self.loops.update(places.tolist())

    def _to_matrix(self) -> None:
        self.matrix = torch.zeros(self.shape, dtype=torch.float32)
        for codes, values in zip(self.codes, self.amounts, strict=True):
            self.matrix.view(-1).index_add_(0, codes, _stored(values))
        self.codes, self.amounts = [], []

    # -- what came of it

    def settle(self) -> None:
        """Weights stay where they are only if every pair is in one rectangle at most, and not written down as well."""
        apart = all(not a.meets(b) for k, a in enumerate(self.rectangles) for b in self.rectangles[:k])
        if apart and not any(self._written_in(r) for r in self.rectangles):
            return
        rectangles, self.rectangles = self.rectangles, []
        for r in rectangles:
            operator = Channels(_row(r.sources.numel()), _row(r.targets.numel()), r.slices, (), r.holes)
            if operator.unknown:
                for piece in operator.edges():
                    self.add_pairs(r.sources[piece.source], r.targets[piece.target], piece.weight, True)
            else:
                self.add_matrix(r.sources, r.targets, torch.cat([amounts for _, _, amounts in operator.pieces()], 1))

    def _written_in(self, r: Rectangle) -> bool:
        """Whether some pair of a rectangle is written down."""
        if self.matrix is not None:
            return bool(self.matrix[r.sources][:, r.targets].any())
        for codes in self.codes:
            row, column = codes.div(self.shape[1], rounding_mode="floor"), codes.remainder(self.shape[1])
            if bool((torch.isin(row, r.sources) & torch.isin(column, r.targets)).any()):
                return True
        return False

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct codes source * shape[1] + target of what is written down, ascending, and the amounts added up."""
        if self.matrix is not None:
            codes = self.matrix.view(-1).nonzero().view(-1)
            return codes, self.matrix.view(-1)[codes].to(torch.float64)
        if not self.codes:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
        if not self.weighted:
            codes = distinct(torch.cat(self.codes))
            return codes, torch.ones(codes.numel(), dtype=torch.float64)
        codes, inverse = torch.unique(torch.cat(self.codes), return_inverse=True)
        amounts = torch.zeros(codes.numel(), dtype=torch.float64)
        amounts.index_add_(0, inverse, torch.cat(self.amounts))
        return codes, amounts

    def has(self, codes: torch.Tensor) -> torch.Tensor:
        """Boolean per code: whether that pair is an edge here."""
        written = torch.isin(codes, self.pairs()[0]) if self.matrix is None else self.matrix.view(-1)[codes] != 0
        found = written.clone()
        row, column = codes.div(self.shape[1], rounding_mode="floor"), codes.remainder(self.shape[1])
        for r in self.rectangles:
            inside = torch.isin(row, r.sources) & torch.isin(column, r.targets)
            place = torch.searchsorted(r.sources, row) * r.targets.numel() + torch.searchsorted(r.targets, column)
            found |= inside & ~torch.isin(place, r.holes)
        return found


def operators_of(
    weighted: Block | None, plain: Block | None, source: Operand, target: Operand, key: tuple[Any, ...]
) -> list[EdgeOperator]:
    """Operators for the weight edges between two groups, and for those that are only structural.

    Args:
        source, target: operands (1, n) and (1, m) of the two groups.
        key: names the weights of the block.
    """
    made: list[EdgeOperator] = []
    width = target.shape[-1]
    if weighted is not None:
        weighted.settle()
        for number, r in enumerate(weighted.rectangles):
            if r.holes.numel() == r.sources.numel() * r.targets.numel():
                continue  # nothing but self-loops
            here, there = _some(source, r.sources), _some(target, r.targets)
            made.append(Channels(here, there, r.slices, (*key, number), r.holes))
        if weighted.matrix is not None and not weighted.unknown:
            made.append(Matmul(source, target, WeightRef(key, weighted.matrix)))
        elif weighted.matrix is not None or weighted.codes:
            codes, amounts = weighted.pairs()
            amounts = torch.empty(amounts.shape, device="meta") if weighted.unknown else amounts
            made.append(Sparse(source, target, codes // width, codes % width, WeightRef(key, amounts)))
    if plain is None:
        return made
    total = source.shape[-1] * width
    if plain.full and not made:
        return [Matmul(source, target)]
    codes = torch.arange(total) if plain.full else plain.pairs()[0]
    if weighted is not None and codes.numel():
        codes = codes[~weighted.has(codes)]
    if codes.numel() == total:
        made.append(Matmul(source, target))
    elif 4 * codes.numel() > total:
        pattern = torch.zeros(total, dtype=torch.bool)
        pattern[codes] = True
        made.append(Matmul(source, target, pattern=pattern.view(-1, width)))
    elif codes.numel():
        made.append(Sparse(source, target, codes // width, codes % width))
    return made


def _stored(amounts: torch.Tensor) -> torch.Tensor:
    """Sums of |w| as float32: an edge stays one, however small its weight."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(amounts != 0, amounts.clamp(min=tiny), 0.0).to(torch.float32)


def _ranked(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distinct places, ascending, and which of them each entry is."""
    found = distinct(places)
    if found.numel() == places.numel() and torch.equal(found, places):
        return found, torch.arange(places.numel())
    return found, torch.searchsorted(found, places)


def _row(count: int) -> Operand:
    return Operand.strided((1, count), (count, 1), 0)


def _some(operand: Operand, places: torch.Tensor) -> Operand:
    """Part of an operand (1, n) of one group."""
    count = places.numel()
    if int(places[-1]) - int(places[0]) == count - 1:
        return Operand.strided((1, count), (count, 1), operand.offset + int(places[0]))
    return Operand.indexed(operand.offset + places.view(1, -1))


__all__ = ["Block", "Rectangle", "operators_of"]
