"""One layer as a bipartite graph: a linear map from what it reads (left) to its units (right), and its spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepstruct.engine.lanczos import extreme
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import carry
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, WeightMode

DENSE_SIDE = 1024  # Gram matrices up to this side are decomposed, larger ones iterated


class Bipartite:
    """A non-negative matrix M of shape (right, left) that is only ever applied."""

    left: int
    right: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """M x, of shape (right,)."""
        raise NotImplementedError

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        """M' y, of shape (left,)."""
        raise NotImplementedError

    def gram(self) -> torch.Tensor | None:
        """M M' or M' M, the smaller of the two, where it is at hand; None where it is not."""
        return None


class Stored(Bipartite):
    """A stored matrix of shape (right, left)."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.right, self.left = matrix.shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix @ x

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        return y @ self.matrix

    def gram(self) -> torch.Tensor | None:
        if min(self.left, self.right) > DENSE_SIDE:
            return None
        return self.matrix @ self.matrix.T if self.right <= self.left else self.matrix.T @ self.matrix


class Unrolled(Bipartite):
    """Operators of a graph, over the ranges of slots that they read (left) and write (right).

    A slot that is read through two operators is one left node. Slots that are no units stay without edges;
    units that are part of a later sum are nodes of their own here.
    """

    def __init__(self, graph: StructureGraph, ops: Sequence[EdgeOperator], mode: WeightMode = "pattern") -> None:
        self.mode = mode
        self._from, self.left = _window([op.source for op in ops])
        self._to, self.right = _window([op.target for op in ops])
        self.ops = [(op, _shifted(op.source, self._from), _shifted(op.target, self._to)) for op in ops]
        self._live_left = self._live_right = None
        if graph.live is not None:
            self._live_left = graph.live[self._from : self._from + self.left].to(torch.float64)
            self._live_right = graph.live[self._to : self._to + self.right].to(torch.float64)

    @property
    def left_slots(self) -> torch.Tensor:
        """Slot of each left node."""
        return torch.arange(self._from, self._from + self.left)

    @property
    def right_slots(self) -> torch.Tensor:
        """Slot of each right node."""
        return torch.arange(self._to, self._to + self.right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self._live_left is None else x * self._live_left
        out = torch.zeros(self.right, dtype=x.dtype)
        for op, source, target in self.ops:
            target.accumulate(out, carry(op, source.gather(x), Counting(x.dtype, self.mode)))
        return out if self._live_right is None else out * self._live_right

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        y = y if self._live_right is None else y * self._live_right
        out = torch.zeros(self.left, dtype=y.dtype)
        for op, source, target in self.ops:
            values = carry(op, target.gather(y), Counting(y.dtype, self.mode), transpose=True)
            source.accumulate(out, values)
        return out if self._live_left is None else out * self._live_left


def _window(operands: Sequence[Operand]) -> tuple[int, int]:
    """(first slot, number of slots) of the range that holds what the operands read."""
    first = last = None
    for operand in operands:
        if operand.numel == 0:
            continue
        if operand.stride is not None:
            low = operand.offset
            high = low + sum((n - 1) * step for n, step in zip(operand.shape, operand.stride, strict=True))
        else:
            assert operand.table is not None
            units = operand.table[operand.table >= 0]
            if units.numel() == 0:
                continue
            low, high = int(units.min()), int(units.max())
        first = low if first is None else min(first, low)
        last = high if last is None else max(last, high)
    return (0, 0) if first is None or last is None else (first, last - first + 1)


def _shifted(operand: Operand, by: int) -> Operand:
    if operand.stride is not None:
        return Operand.strided(operand.shape, operand.stride, operand.offset - by)
    assert operand.table is not None
    return Operand.indexed(torch.where(operand.table >= 0, operand.table - by, operand.table))


class LeftPart(Bipartite):
    """The graph that some left nodes induce with all right nodes."""

    def __init__(self, whole: Bipartite, keep: torch.Tensor) -> None:
        self.whole, self.keep = whole, keep.to(torch.float64)
        self.left, self.right = whole.left, whole.right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole.forward(x * self.keep)

    def backward(self, y: torch.Tensor) -> torch.Tensor:
        return self.whole.backward(y) * self.keep

    def gram(self) -> torch.Tensor | None:
        if not isinstance(self.whole, Stored):
            return None
        return Stored(self.whole.matrix[:, self.keep > 0]).gram()


@dataclass(frozen=True)
class Degrees:
    """Degrees of both sides, float64."""

    left: torch.Tensor
    right: torch.Tensor

    @property
    def edges(self) -> float:
        return float(self.left.sum())

    @property
    def means(self) -> tuple[float, float]:
        """Mean degrees of the left and right nodes that have edges; 0 where there are none."""
        left, right = self.joined
        return self.edges / max(left, 1), self.edges / max(right, 1)

    @property
    def joined(self) -> tuple[int, int]:
        """Number of left and right nodes that have edges."""
        return int((self.left > 0).sum()), int((self.right > 0).sum())


def degrees(pattern: Bipartite) -> Degrees:
    """Of the 0/1 (or multigraph) matrix: its column and row sums."""
    right = torch.ones(pattern.right, dtype=torch.float64)
    return Degrees(pattern.backward(right), pattern.forward(torch.ones(pattern.left, dtype=torch.float64)))


@dataclass(frozen=True)
class Singular:
    """The two largest singular values; the residual is that of the eigenvalues of the Gram map, relative."""

    first: float
    second: float
    residual: float
    converged: bool

    @property
    def gap(self) -> float:
        return self.first - self.second


def singular_values(
    matrix: Bipartite, start: torch.Tensor, *, steps: int = 300, tolerance: float = 1e-7
) -> Singular:
    """The two largest singular values, a double one twice.

    Args:
        start: random, one value for each node of the smaller side (left when equal).
    """
    gram = matrix.gram()
    if gram is not None:
        values = torch.linalg.eigvalsh(gram)
        first = float(values[-1]) if values.numel() else 0.0
        return Singular(_root(first, first), _root(float(values[-2]), first) if values.numel() > 1 else 0.0, 0.0, True)
    if matrix.left <= matrix.right:
        apply = lambda x: matrix.backward(matrix.forward(x))  # noqa: E731
    else:
        apply = lambda y: matrix.forward(matrix.backward(y))  # noqa: E731
    top = extreme(apply, start.abs(), steps=steps, tolerance=tolerance, vector=True)
    if top.value <= 0 or top.vector is None:
        return Singular(0.0, 0.0, 0.0, True)
    bound = tolerance * top.value
    # of its own: where a double value lives on few nodes, |start| can be start itself, and nothing would be left of it
    other = torch.randn(start.numel(), generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    second = extreme(apply, other, deflate=[top.vector], steps=steps, accept=lambda value: bound)
    return Singular(
        top.value**0.5, min(_root(second.value, top.value), top.value**0.5),
        max(top.residual, second.residual) / top.value, top.converged and second.converged,
    )  # fmt: skip


def _root(value: float, largest: float) -> float:
    """Square root of an eigenvalue; what rounding leaves of 0 is 0."""
    return value**0.5 if value > 1e-11 * largest else 0.0


def smaller_side(matrix: Bipartite) -> int:
    return min(matrix.left, matrix.right)


def delta_r(pattern: Degrees, second: float) -> float:
    """sqrt(d_left - 1) + sqrt(d_right - 1) - sigma_2, mean degrees over nodes with edges; > 0: Ramanujan."""
    left, right = pattern.means
    return float(max(left - 1, 0.0) ** 0.5 + max(right - 1, 0.0) ** 0.5 - second)


def delta_s(found: Singular) -> float:
    """2 sqrt(sigma_1 - 1) - sigma_2."""
    return float(2 * max(found.first - 1, 0.0) ** 0.5 - found.second)
