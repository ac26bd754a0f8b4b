"""Which output elements depend on which source elements, and how two answers are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepstruct.errors import DeepstructError


class OracleError(DeepstructError, AssertionError):
    """A structure graph disagrees with the dependencies that the model really has."""


@dataclass(frozen=True)
class Support:
    """A boolean relation between the elements of a model's outputs and those of its sources.

    Attributes:
        matrix: boolean (output elements, source elements); elements are in row-major order, one tensor
            after the other.
        outputs, sources: (name, shape) of the tensors along both sides.
    """

    matrix: torch.Tensor
    outputs: Sequence[tuple[str, tuple[int, ...]]]
    sources: Sequence[tuple[str, tuple[int, ...]]]

    def row(self, position: int) -> str:
        """An output element in words: "output[0, 3]"."""
        return _element(self.outputs, position)

    def column(self, position: int) -> str:
        """A source element in words: "x[0, 1, 2]"."""
        return _element(self.sources, position)

    def __repr__(self) -> str:
        outputs = ", ".join(f"{n}{list(s)}" for n, s in self.outputs)
        sources = ", ".join(f"{n}{list(s)}" for n, s in self.sources)
        return f"Support({outputs} <- {sources}: {int(self.matrix.sum())} of {self.matrix.numel()})"


def _element(tensors: Sequence[tuple[str, tuple[int, ...]]], position: int) -> str:
    for name, shape in tensors:
        size = math.prod(shape)
        if position < size:
            if not shape:
                return name
            index = []
            for n in reversed(shape):
                index.append(position % n)
                position //= n
            return f"{name}[{', '.join(map(str, reversed(index)))}]"
        position -= size
    raise IndexError("no such element")


def require_contained(real: Support, graph: Support, what: str) -> None:
    """OracleError when `real` has a pair that `graph` lacks; it names the first one."""
    _same_sides(real, graph, what)
    missing = real.matrix & ~graph.matrix
    if bool(missing.any()):
        row, column = missing.nonzero()[0].tolist()
        raise OracleError(
            f"{what}: {real.row(row)} depends on {real.column(column)}, but no path of the graph says so "
            f"({int(missing.sum())} such pairs of {missing.numel()})"
        )


def require_equal(real: Support, graph: Support, what: str) -> None:
    """OracleError when the two relations differ; it names the first pair that does."""
    require_contained(real, graph, what)
    extra = graph.matrix & ~real.matrix
    if bool(extra.any()):
        row, column = extra.nonzero()[0].tolist()
        raise OracleError(
            f"{what}: the graph has a path from {real.column(column)} to {real.row(row)}, but the derivative is "
            f"zero ({int(extra.sum())} such pairs of {extra.numel()})"
        )


def _same_sides(real: Support, graph: Support, what: str) -> None:
    if real.matrix.shape != graph.matrix.shape:
        raise OracleError(f"{what}: the model relates {real!r}, the graph {graph!r}")
