"""Counting stored weights once, however often and through whatever views they are used."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from deepstruct.structure.operators import Channels, EdgeOperator, WeightRef, alive
from deepstruct.structure.operators.contraction import Contraction


class WeightUnion:
    """The union of stored weights that several operators mark, by storage.

    Views that are marked as a whole are remembered as such: a boolean per weight is written down only where
    parts of a storage are marked, or several views of it.
    """

    def __init__(self) -> None:
        self._marks: dict[Any, torch.Tensor] = {}
        self._whole: dict[Any, dict[Any, torch.Tensor]] = defaultdict(dict)

    def mark(self, ref: WeightRef, where: torch.Tensor) -> None:
        """Mark the stored weights where a boolean tensor of the weight's shape is true."""
        if ref.tensor.numel() == 0 or not bool(_once(where).any()):
            return
        if ref.key not in self._marks and bool(_once(where).all()):
            self._whole[ref.key][_geometry(ref)] = ref.tensor
            return
        self._write(ref.key, ref.tensor, where)

    def _write(self, key: Any, tensor: torch.Tensor, where: torch.Tensor) -> None:
        """Mark weights one by one, after the views of the same storage that were marked as a whole."""
        for view in self._whole.pop(key, {}).values():
            self._write(key, view, torch.ones((), dtype=torch.bool).expand(view.shape))
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        size = int(1 + tensor.storage_offset() + reach)
        marks = self._marks.get(key)
        if marks is None or marks.numel() < size:
            grown = torch.zeros(size, dtype=torch.bool)
            if marks is not None:
                grown[: marks.numel()] = marks
            self._marks[key] = marks = grown
        view = marks.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        if 0 in tensor.stride():
            index = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            marks[index[where]] = True
        else:
            view |= where

    def _spelled_out(self, key: Any) -> torch.Tensor | None:
        """The marks of a storage, one for each weight."""
        whole = next(iter(self._whole.get(key, {}).values()), None)
        if whole is not None:
            self._write(key, whole, torch.ones((), dtype=torch.bool).expand(whole.shape))
        return self._marks.get(key)

    def marked(self, key: Any, size: int) -> torch.Tensor:
        """Boolean of shape (size,): which elements of a storage are marked."""
        marks = torch.zeros(size, dtype=torch.bool)
        known = self._spelled_out(key)
        if known is not None:
            marks[: known.numel()] = known
        return marks

    def total(self) -> int:
        """How many stored weights are marked."""
        count = 0
        for key, views in list(self._whole.items()):
            (view, *others) = views.values()
            if others or 0 in view.stride():
                self._spelled_out(key)
            else:
                count += view.numel()
        return count + sum(int(torch.count_nonzero(m)) for m in self._marks.values())  # sum() is many times slower


def _once(where: torch.Tensor) -> torch.Tensor:
    """Broadcast axes cut to length 1."""
    for axis, (n, step) in enumerate(zip(where.shape, where.stride(), strict=True)):
        if n > 1 and step == 0:
            where = where.narrow(axis, 0, 1)
    return where


def count_weights(operators: Iterable[EdgeOperator]) -> tuple[int, int]:
    """(stored weights, those that are edges) of all weighted operators."""
    possible, present = weight_unions(operators, lambda op: True)
    return possible, present


def weight_unions(operators: Iterable[EdgeOperator], wanted: Callable[[EdgeOperator], bool]) -> tuple[int, int]:
    """As `count_weights`, for the operators that are wanted."""
    uses: dict[Any, list[EdgeOperator]] = defaultdict(list)
    possible = present = 0
    for op in operators:
        if isinstance(op, Channels):  # of its own, and never seen as a matrix
            if wanted(op):
                possible, present = possible + op.inner * op.outer, present + op.count()
        elif op.weight is not None and op.weighted and wanted(op):
            uses[op.weight.key].append(op)
    for ops in uses.values():
        distinct = {_geometry(op.weight): op for op in ops if op.weight is not None}
        if len(distinct) == 1:
            (op,) = distinct.values()
            assert op.weight is not None
            possible += op.weight.tensor.numel()
            present += _number_live(op, op.weight.tensor)
            continue
        covered, live = WeightUnion(), WeightUnion()
        for op in distinct.values():
            assert op.weight is not None
            covered.mark(op.weight, torch.ones((), dtype=torch.bool).expand(op.weight.tensor.shape))
            live.mark(op.weight, _live(op))
        possible += covered.total()
        present += live.total()
    return possible, present


def _number_live(op: EdgeOperator, tensor: torch.Tensor) -> int:
    if isinstance(op, Contraction) and op.live is not None:
        return op.live.total
    return tensor.numel() if tensor.is_meta else int(torch.count_nonzero(_live(op)))


def _live(op: EdgeOperator) -> torch.Tensor:
    assert op.weight is not None
    if op.weight.tensor.is_meta:
        return torch.ones((), dtype=torch.bool).expand(op.weight.tensor.shape)
    return alive(op.weight.tensor, getattr(op, "threshold", 0.0))


def _geometry(ref: WeightRef | None) -> Any:
    """Which elements of the storage a weight covers, whatever the order of its axes."""
    assert ref is not None
    axes = sorted((s, n) for n, s in zip(ref.tensor.shape, ref.tensor.stride(), strict=True) if n > 1)
    return (ref.tensor.storage_offset(), tuple(axes))
