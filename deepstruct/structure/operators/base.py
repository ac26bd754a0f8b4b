"""What an edge operator owes: a bipartite graph between two operands, never written down."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch

from deepstruct.errors import MetricError
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.recent import RECENT

WeightMode = Literal["pattern", "abs", "square", "signed"]


class WeightRef(NamedTuple):
    """The stored weights behind an operator.

    `key` names the storage (tied weights share it); `tensor` is the weight as the operator uses it, whose
    strides and offset place it in that storage. `tensor` is a meta tensor where no values are at hand.
    `learned` is False for fixed numbers (a blur filter in a buffer): their edges are structural.
    """

    key: tuple[object, ...]
    tensor: torch.Tensor
    learned: bool = True


class Edges(NamedTuple):
    """Explicit edges between elements: flat indices into source and target operand, and weights.

    `weight` is NaN on structural edges.
    """

    source: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor


class EdgeOperator:
    """Edges from the elements of `source` to those of `target`.

    `forward` maps values on source elements to target elements, y = A x with A the 0/1 pattern of the
    edges (or the absolute, squared or signed weights); `backward` is its transpose. Both are linear over
    the dtype of the values. Elements of the source that are no units must be passed as zeros.
    """

    source: Operand
    target: Operand
    name: str = ""  # module path, or the op, that it comes from
    call: int = 0  # the call of the trace that it belongs to
    weight: WeightRef | None = None

    @property
    def weighted(self) -> bool:
        """Whether its edges run through learned parameters."""
        return self.weight is not None and self.weight.learned

    def touches(self, units: torch.Tensor) -> torch.Tensor:
        """Target elements that read at least one of the source elements in `units` (boolean), by position alone.

        Weights that are zero still read: a neuron whose weights are pruned away stays a neuron.
        """
        return self.forward(units.to(torch.float32)) > 0

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        raise NotImplementedError

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        raise NotImplementedError

    def flow(self, x: torch.Tensor, y: torch.Tensor, mode: WeightMode = "pattern") -> float:
        """Sum over the edges of source value x edge value x target value: <y, A x>, with y as `backward` takes it."""
        return float((self.forward(x, mode) * y).sum())

    def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """For each stored weight the number of its edges from source elements in x to target elements in y."""
        raise NotImplementedError

    def used_weights(self) -> torch.Tensor:
        """Boolean per stored weight: whether it has an edge at all, wherever source and target are units."""
        ones = torch.ones(())
        return self.weight_usage(ones.expand(self.source.shape), ones.expand(self.target.shape)) > 0.5

    def edges(self) -> Iterator[Edges]:
        """The edges in pieces, by element; elements without units included, for the caller to drop."""
        raise NotImplementedError

    def fan_in(self) -> int:
        """An upper bound of the number of edges into one target element."""
        raise NotImplementedError

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        """Number of edges whose source and target elements are units (None: all are)."""
        one = torch.ones((), dtype=torch.float64)
        x = one.expand(self.source.shape) if source_ok is None else source_ok.to(torch.float64)
        out = self.forward(x)
        if target_ok is not None:
            out = out * target_ok
        return int(out.sum().item())

    def bytes(self) -> int:
        """Memory that it holds beyond the model's own weights."""
        return 0


def weights_in(ref: WeightRef, mode: WeightMode, dtype: torch.dtype, threshold: float) -> torch.Tensor:
    """The weights as numbers of the given mode: 0/1, |w|, w squared or w, cut at the threshold."""
    tensor = ref.tensor
    if mode == "pattern":
        return RECENT.get(tensor, dtype, threshold, make=lambda: alive(tensor, threshold).to(dtype))
    if tensor.is_meta:
        raise MetricError(
            "the model's weights have no values (they are on the meta device), and this needs their magnitudes: load "
            "weights into the model first"
        )
    values = as_numbers(tensor.detach(), mode, dtype)
    return values if threshold <= 0 else torch.where(alive(tensor, threshold), values, 0)


def as_numbers(weights: torch.Tensor, mode: WeightMode, dtype: torch.dtype) -> torch.Tensor:
    """Weights that are edges as numbers of the given mode, which is not "pattern"."""
    values = weights.to(torch.float64).to(dtype)
    return values.abs() if mode == "abs" else values.square() if mode == "square" else values


def alive(tensor: torch.Tensor, threshold: float) -> torch.Tensor:
    """Where a weight is an edge: non-zero, and above the threshold in magnitude where one is set."""
    if tensor.dtype == torch.bool:
        return tensor
    return tensor != 0 if threshold <= 0 else tensor.abs() > threshold


def all_alive(tensor: torch.Tensor, threshold: float) -> bool:
    """Whether every weight is an edge. Weights without values count as edges."""
    if tensor.is_meta:
        return True
    if threshold <= 0:
        return int(torch.count_nonzero(tensor)) == tensor.numel()
    return bool(alive(tensor, threshold).all())


def few_zeros(tensor: torch.Tensor, threshold: float, edges: int | None = None) -> torch.Tensor | None:
    """Where the weights are no edges, as (count, axes) indices; None where that is nowhere, or in many places.

    Freshly drawn weights hold a few exact zeros: it is quicker to take those away from a dense layer. `edges` is how
    many weights are edges, where the caller knows.
    """
    if tensor.is_meta:
        return None
    if edges is None:
        edges = int(torch.count_nonzero(alive(tensor, threshold)))
    return (~alive(tensor, threshold)).nonzero() if 0 < tensor.numel() - edges <= tensor.numel() // 256 else None


def product(numbers: tuple[int, ...] | list[int]) -> int:
    return math.prod(numbers)
