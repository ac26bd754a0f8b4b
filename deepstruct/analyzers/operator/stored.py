"""Layers with weights, as matrices: the unrolled operator, and the stored weights reshaped to (out, in * taps)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.layers import _space_of
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.bipartite import Bipartite, Stored, Unrolled
from deepstruct.errors import MetricError
from deepstruct.structure.operators import Conv, EdgeOperator, WeightMode
from deepstruct.structure.operators.base import weights_in

T = TypeVar("T")
_kept: WeakKeyDictionary[EdgeOperator, dict[str, Any]] = WeakKeyDictionary()

Layers = Callable[[OperatorView], Mapping[str, Callable[[WeightMode], Bipartite]]]

_MAX_BLOCK = 1 << 27  # entries of a matrix that several stored weights are joined in


def weighted_operators(view: OperatorView) -> dict[str, list[EdgeOperator]]:
    """Per layer (space) the operators that write to it through weights."""

    def compute() -> dict[str, list[EdgeOperator]]:
        out: dict[str, list[EdgeOperator]] = {}
        for op in view.graph.operators:
            if op.weighted:
                out.setdefault(_space_of(view, op).name, []).append(op)
        return out

    return once(view, "weighted operators", compute)


def kept(ops: Sequence[EdgeOperator], key: str, compute: Callable[[], T]) -> T:
    """`compute()`, remembered for as long as the one operator of a layer lives: in a batch of checkpoints, operators
    of layers whose weights did not change live on."""
    if len(ops) != 1:
        return compute()
    mine = _kept.setdefault(ops[0], {})
    if key not in mine:
        mine[key] = compute()
    value: T = mine[key]
    return value


def unrolled(view: OperatorView) -> Mapping[str, Callable[[WeightMode], Bipartite]]:
    """Per layer its map over units."""
    return {name: _unroller(view, ops) for name, ops in weighted_operators(view).items()}


def _unroller(view: OperatorView, ops: list[EdgeOperator]) -> Callable[[WeightMode], Bipartite]:
    return lambda mode: Unrolled(view.graph, ops, mode)


def kernels(view: OperatorView) -> Mapping[str, Callable[[WeightMode], Bipartite]]:
    """Per layer its stored weights."""
    return {name: _storer(name, ops) for name, ops in weighted_operators(view).items()}


def _storer(name: str, ops: list[EdgeOperator]) -> Callable[[WeightMode], Bipartite]:
    return lambda mode: Stored(stored_matrix(name, ops, mode))


def stored_matrix(name: str, ops: list[EdgeOperator], mode: WeightMode) -> torch.Tensor:
    """The stored weights of a layer as one matrix (out, in), float64, in the given mode; tied ones once.

    Convolutions are (out, in / groups * taps). Weights with equally many outputs stand side by side (a
    recurrent cell reads its input and its state), others and those of a batched product down the diagonal.
    """
    distinct = {
        (op.weight.key, op.weight.tensor.storage_offset(), tuple(op.weight.tensor.shape)): op
        for op in ops
        if op.weight is not None
    }
    parts = [_matrix(name, op, mode) for op in distinct.values()]
    if len({part.shape[0] for part in parts}) == 1:
        return torch.cat(parts, 1)
    return _diagonal(name, parts)


def _matrix(name: str, op: EdgeOperator, mode: WeightMode) -> torch.Tensor:
    assert op.weight is not None
    if op.weight.tensor.is_meta:
        raise MetricError("the model's weights have no values (they are on the meta device): load weights first")
    tensor = weights_in(op.weight, mode, torch.float64, getattr(op, "threshold", 0.0))
    if isinstance(op, Conv):
        return (tensor.transpose(0, 1) if op.transposed else tensor).flatten(1)
    if tensor.dim() > 2:  # a batched product
        return _diagonal(name, list(tensor.flatten(0, -3).transpose(-1, -2)))
    return tensor.T if tensor.dim() == 2 else tensor.reshape(1, -1)


def _diagonal(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    entries = sum(part.shape[0] for part in parts) * sum(part.shape[1] for part in parts)
    if entries > _MAX_BLOCK:
        raise MetricError(f"layer {name}: its {len(parts)} stored weights make a matrix of {entries:,} entries")
    return torch.block_diag(*parts)
