"""Counting stored weights once, however often and through whatever views they are used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from deepstruct.structure.operators import EdgeOperator, WeightRef, alive


class WeightUnion:
    """The union of stored weights that several operators mark, by storage."""

    def __init__(self) -> None:
        self._marks: dict[Any, torch.Tensor] = {}

    def mark(self, ref: WeightRef, where: torch.Tensor) -> None:
        """Mark the stored weights where a boolean tensor of the weight's shape is true."""
        tensor = ref.tensor
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        size = int(1 + tensor.storage_offset() + reach)
        if tensor.numel() == 0:
            return
        marks = self._marks.get(ref.key)
        if marks is None or marks.numel() < size:
            grown = torch.zeros(size, dtype=torch.bool)
            if marks is not None:
                grown[: marks.numel()] = marks
            self._marks[ref.key] = marks = grown
        view = marks.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if 0 in tensor.stride():
            index = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            marks[index[where]] = True
        else:
            view |= where

    def marked(self, key: Any, size: int) -> torch.Tensor:
        """Boolean of shape (size,): which elements of a storage are marked."""
        marks = torch.zeros(size, dtype=torch.bool)
        known = self._marks.get(key)
        if known is not None:
            marks[: known.numel()] = known
        return marks

    def total(self) -> int:
        """How many stored weights are marked."""
        return sum(int(torch.count_nonzero(m)) for m in self._marks.values())  # sum() is many times slower


def count_weights(operators: Iterable[EdgeOperator]) -> tuple[int, int]:
    """(stored weights, those that are edges) of all weighted operators."""
    possible, present = weight_unions(operators, lambda op: True)
    return possible, present


def weight_unions(operators: Iterable[EdgeOperator], wanted: Callable[[EdgeOperator], bool]) -> tuple[int, int]:
    """As `count_weights`, for the operators that are wanted."""
    uses: dict[Any, list[EdgeOperator]] = defaultdict(list)
    for op in operators:
        if op.weight is not None and op.weighted and wanted(op):
            uses[op.weight.key].append(op)
    possible = present = 0
    for ops in uses.values():
        distinct = {_geometry(op.weight): op for op in ops if op.weight is not None}
        if len(distinct) == 1:
            (op,) = distinct.values()
            assert op.weight is not None
            possible += op.weight.tensor.numel()
            meta = op.weight.tensor.is_meta
            present += op.weight.tensor.numel() if meta else int(torch.count_nonzero(_live(op)))
            continue
        covered, live = WeightUnion(), WeightUnion()
        for op in distinct.values():
            assert op.weight is not None
            covered.mark(op.weight, torch.ones((), dtype=torch.bool).expand(op.weight.tensor.shape))
            live.mark(op.weight, _live(op))
        possible += covered.total()
        present += live.total()
    return possible, present


def _live(op: EdgeOperator) -> torch.Tensor:
    assert op.weight is not None
    if op.weight.tensor.is_meta:
        return torch.ones(op.weight.tensor.shape, dtype=torch.bool)
    return alive(op.weight.tensor, getattr(op, "threshold", 0.0))


def _geometry(ref: WeightRef | None) -> Any:
    """Which elements of the storage a weight covers, whatever the order of its axes."""
    assert ref is not None
    axes = sorted((s, n) for n, s in zip(ref.tensor.shape, ref.tensor.stride(), strict=True) if n > 1)
    return (ref.tensor.storage_offset(), tuple(axes))
