"""Operators compiled for the native kernels: patterns of edges, built once and kept while memory allows."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch

from deepstruct.engine.contractions import of_any
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul, Separable, Sparse, WeightMode, WeightRef, alive
from deepstruct.structure.operators.base import as_numbers
from deepstruct.structure.operators.contraction import Contraction, stamp_of

Window = tuple[int, int, int, int, int, int]  # reader, read, taps, stride, padding, dilation
_POINT: Window = (1, 1, 1, 1, 0, 1)


class Unsupported(Exception):
    """The kernels do not know this operator, or not in this form."""


@dataclass
class Pass:
    """One compiled pattern, and the axis of the operands that are its channels (Separable) or None."""

    pattern: Any  # deepstruct._graph.Pattern
    axis: int | None = None
    shape: tuple[int, ...] = ()  # of what a pass over one axis makes


@dataclass
class Plan:
    """The compiled pattern of one operator: each direction is built when it is first asked for.

    Attributes:
        passes: by (transposed, with weights).
        values: weights beside the entries, by (transposed, mode, dtype).
        joined: what has an edge at all, by direction (see `joined`).
    """

    stamp: tuple[object, ...]
    passes: dict[tuple[bool, bool], list[Pass]] = field(default_factory=dict)
    values: dict[tuple[bool, str, torch.dtype], torch.Tensor] = field(default_factory=dict)
    joined: dict[bool, torch.Tensor | None] = field(default_factory=dict)
    alive_share: float | None = None
    used: int = 0

    def bytes(self) -> int:
        """Memory of the compiled form."""
        patterns = sum(p.pattern.bytes for passes in self.passes.values() for p in passes)
        marks = sum(m.numel() for m in self.joined.values() if m is not None)
        return patterns + marks + sum(v.numel() * v.element_size() for v in self.values.values())


class PlanCache:
    """Plans by operator, within a number of bytes: the least recently used go first.

    An operator's plan lives no longer than the operator, and is built anew when its weights have changed
    (another tensor, or one written in place).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._plans: weakref.WeakKeyDictionary[EdgeOperator, Plan] = weakref.WeakKeyDictionary()
        self._clock = 0

    def get(self, op: EdgeOperator) -> Plan:
        stamp = _stamp(op)
        plan = self._plans.get(op)
        if plan is None or plan.stamp != stamp:
            plan = self._plans[op] = Plan(stamp)
        self._clock += 1
        plan.used = self._clock
        return plan

    def bytes(self) -> int:
        return sum(plan.bytes() for plan in self._plans.values())

    def trim(self, keep: Plan | None = None) -> None:
        """Drop plans until the rest fits; `keep` is in use and stays."""
        total = self.bytes()
        if total <= self.limit:
            return
        for op, plan in sorted(self._plans.items(), key=lambda item: item[1].used):
            if plan is keep:
                continue
            total -= plan.bytes()
            del self._plans[op]
            if total <= self.limit:
                return

    def clear(self) -> None:
        self._plans.clear()


def _stamp(op: EdgeOperator) -> tuple[object, ...]:
    """Changes whenever the edges of the operator may have."""
    threshold = getattr(op, "threshold", 0.0)
    tensor = op.weight.tensor if op.weight is not None else getattr(op, "pattern", None)
    if tensor is None:
        return (threshold,)
    return (*stamp_of(tensor), threshold)


def passes(graph: ModuleType, op: EdgeOperator, plan: Plan, transpose: bool, weighted: bool) -> list[Pass]:
    """The compiled patterns of one direction, run one after the other.

    Raises Unsupported for operators that the kernels do not know.
    """
    key = (transpose, weighted)
    if key not in plan.passes:
        try:
            plan.passes[key] = _compile(graph, op, transpose, weighted)
        except (ValueError, IndexError) as error:  # more elements than 32 bits can number
            raise Unsupported(str(error)) from error
    return plan.passes[key]


def values(op: EdgeOperator, plan: Plan, transpose: bool, mode: WeightMode, dtype: torch.dtype) -> torch.Tensor:
    """The weights in the order of the entries of the pattern of one direction."""
    key = (transpose, mode, dtype)
    if key not in plan.values:
        assert op.weight is not None
        [only] = plan.passes[transpose, True]
        tensor = op.weight.tensor.detach()
        if isinstance(op, Sparse):
            tensor = tensor[alive(tensor, op.threshold)]
        elif isinstance(op, Matmul) and op.outer_first:
            tensor = tensor.T
        # the entries are edges, so no weight among them is cut; the others are never made into numbers
        index = torch.from_numpy(only.pattern.weight_index).to(torch.int64)
        plan.values[key] = as_numbers(tensor.reshape(-1)[index], mode, dtype).contiguous()
    return plan.values[key]


def joined(op: EdgeOperator, plan: Plan, transpose: bool) -> torch.Tensor | None:
    """Where the side that is written has an edge at all, boolean, to be broadcast; None if that takes the pattern."""
    if transpose not in plan.joined:
        plan.joined[transpose] = of_any(op, transpose=transpose)
    return plan.joined[transpose]


def alive_share(op: EdgeOperator, plan: Plan) -> float:
    """Which part of an operator's weights are edges."""
    if plan.alive_share is None:
        assert op.weight is not None
        tensor = op.weight.tensor
        live = op.live if isinstance(op, Contraction) else None
        if tensor.is_meta or tensor.numel() == 0:
            plan.alive_share = 1.0
        elif live is not None:
            plan.alive_share = live.total / tensor.numel()
        else:
            plan.alive_share = int(alive(tensor, getattr(op, "threshold", 0.0)).sum()) / tensor.numel()
    return plan.alive_share


def _compile(graph: ModuleType, op: EdgeOperator, transpose: bool, weighted: bool) -> list[Pass]:
    if type(op) is Conv:
        return [Pass(_conv(graph, op, transpose, weighted))]
    if type(op) is Matmul:
        return [Pass(_matmul(graph, op, transpose, weighted))]
    if type(op) is Separable and not weighted:
        return _separable(graph, op, transpose)
    if type(op) is Sparse:
        return [Pass(_sparse(graph, op, transpose, weighted))]
    raise Unsupported(f"no kernel for {type(op).__name__}")


def _mask(ref: WeightRef, threshold: float, weighted: bool) -> torch.Tensor | None:
    """Where the weights are edges; None for everywhere."""
    if ref.tensor.is_meta:
        return None
    live = alive(ref.tensor.detach(), threshold)
    return None if not weighted and bool(live.all()) else live


def _array(mask: torch.Tensor | None) -> Any:
    return None if mask is None else mask.contiguous().view(torch.uint8).numpy()


def _conv(graph: ModuleType, op: Conv, transpose: bool, weighted: bool) -> Any:
    reader, read = (op.source, op.target) if op.transposed else (op.target, op.source)
    axes: list[Window] = [_POINT] * (3 - len(op.kernel))
    for a, taps in enumerate(op.kernel):
        axes.append((reader.shape[2 + a], read.shape[2 + a], taps, op.stride[a], op.padding[a], op.dilation[a]))
    gather = op.transposed == transpose
    shape = op.weight.tensor.shape
    bits = None if op.live is None else op.live.bits
    return graph.Pattern.from_bits(
        bits, shape[0], shape[1], op.groups, not gather, axes, gather, weighted, torch.get_num_threads()
    )


def _matmul(graph: ModuleType, op: Matmul, transpose: bool, weighted: bool) -> Any:
    matrix = op.weight.tensor if op.weight is not None else op.pattern
    batched = matrix is not None and matrix.dim() > 2
    lead = list(op.source.shape[-2:-1] if batched else lead_axes(op.source.shape[:-1]))
    axes: list[Window] = [_POINT] * (3 - len(lead)) + [(n, n, 1, 1, 0, 1) for n in lead]
    if op.live is not None:
        source_first = op.outer_first == transpose
        return graph.Pattern.from_bits(
            op.live.bits, op.live.first, op.live.second, 1, source_first, axes, not source_first, weighted,
            torch.get_num_threads(),
        )  # fmt: skip
    mask = _mask(op.weight, op.threshold, weighted) if op.weight is not None else op.pattern
    groups = math.prod(op.source.shape[:-2]) if batched else 1
    if mask is not None and batched:
        mask = mask.expand(*op.source.shape[:-2], op.inner, op.outer)
    if mask is not None and mask.dim() > 2 and weighted and mask.numel() != matrix.numel():  # type: ignore[union-attr]
        raise Unsupported("weights that several samples share")
    return graph.Pattern.windows(
        _array(mask), groups * op.inner, op.outer, groups, not transpose, axes, transpose, weighted
    )


def lead_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """At most three axes that hold the rows of a product: those of size 1 go, the first ones become one."""
    kept = [n for n in shape if n != 1]
    if len(kept) > 3:
        kept = [math.prod(kept[:-2]), *kept[-2:]]
    return tuple(kept)


def _separable(graph: ModuleType, op: Separable, transpose: bool) -> list[Pass]:
    shape = list(op.target.shape if transpose else op.source.shape)
    tables = [(a, m.T if transpose else m) for a, m in enumerate(op.axes) if m is not None]
    tables.sort(key=lambda item: item[1].shape[0] / max(item[1].shape[1], 1))  # what shrinks most comes first
    result = []
    for axis, table in tables:
        rest = other_axes(tuple(shape), axis)
        axes: list[Window] = [_POINT] * (3 - len(rest[1:])) + [(n, n, 1, 1, 0, 1) for n in rest[1:]]
        mask = None if bool(table.all()) else table
        pattern = graph.Pattern.windows(_array(mask), table.shape[0], table.shape[1], 1, False, axes, True, False)
        shape[axis] = table.shape[0]
        result.append(Pass(pattern, axis, tuple(shape)))
    return result


def other_axes(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Samples, and up to three more axes: all but one, of those larger than 1."""
    rest = [n for a, n in enumerate(shape) if a != axis and n != 1]
    if len(rest) > 4:
        raise Unsupported(f"windows over {len(shape)} axes")
    return (rest[0], *rest[1:]) if len(rest) == 4 else (1, *rest)


def _sparse(graph: ModuleType, op: Sparse, transpose: bool, weighted: bool) -> Any:
    sources, targets = (op.cols, op.rows) if transpose else (op.rows, op.cols)
    mask = None if op.weight is None else _mask(op.weight, op.threshold, weighted)
    if mask is not None:
        sources, targets = sources[mask], targets[mask]
    read, written = (op.target, op.source) if transpose else (op.source, op.target)
    return graph.Pattern.list(
        sources.contiguous().numpy(), targets.contiguous().numpy(), read.numel, written.numel, weighted
    )
