"""Compiled kernels for the semirings, where they are built.

`push` runs one operator in one direction on plain tensors. It knows convolutions, products, windows, identity
edges and explicit lists; for all else, and for dense sums with weights, which torch does faster, it says no.

| semiring | dtype | stands for |
|---|---|---|
| sum_f32, sum_f64 | float32, float64 | (+, x): of the pattern, or of the weights in any mode |
| mod | int64 | (+, x) modulo a prime: (edges into one element + 1) * prime < 2**63 |
| or_u8, or_u64 | uint8, int64 | (or, and): 8 or 64 sweeps at once, one per bit |
| min_u16, min_i32 | uint16, int32 | (min, +1): edges on the shortest path; 65535 and 2147483647 stand for none |
| max_u16 | uint16 | (max, +1): 1 + edges on the longest path; 0 stands for none |
| max_i32 | int32 | (max, +1): edges on the longest path; -1 stands for none |
| widest_f32 | float32 | (max, min): the widest path; 0 stands for none; edges without a weight have no bound |
| min_f32, max_f32 | float32 | (min, +w), (max, +w); inf and -inf stand for none; edges without a weight have length 1 |

Lengths stop at the largest number of their type. Results do not depend on the number of threads.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch

from deepstruct import _native
from deepstruct.engine import plan as plans
from deepstruct.structure.operators import Channels, EdgeOperator, Identity, Matmul, Separable, Sparse, WeightMode

DTYPES = {
    "sum_f32": (torch.float32,), "sum_f64": (torch.float64,), "mod": (torch.int64,), "or_u8": (torch.uint8,),
    "or_u64": (torch.int64,), "min_u16": (torch.uint16, torch.int16), "max_u16": (torch.uint16, torch.int16),
    "min_i32": (torch.int32,), "max_i32": (torch.int32,), "widest_f32": (torch.float32,),
    "min_f32": (torch.float32,), "max_f32": (torch.float32,),
}  # fmt: skip
_WEIGHTED = {"sum_f32", "sum_f64", "widest_f32", "min_f32", "max_f32"}
# What arrives is one of the values that were sent (and 1 for the edge): what stands for nothing there.
_SELECTING = {
    "or_u8": 0, "or_u64": 0, "min_u16": 65535, "max_u16": 0, "min_i32": 2**31 - 1, "max_i32": -1,
}  # fmt: skip
_LENGTHS = {"min_u16", "max_u16", "min_i32", "max_i32", "min_f32", "max_f32"}
# Share of weights above which torch's dense product is faster than going from entry to entry (measured).
_DENSE = {"sum_f32": 0.3, "sum_f64": 0.35}
_CACHE = plans.PlanCache(int(os.environ.get("DEEPSTRUCT_PLAN_BYTES", str(1 << 29))))
_fixed_threads = 0
_told = False


def module() -> ModuleType | None:
    """The extension module `deepstruct._graph`, or None; never raises, and says once what is missing."""
    global _told
    found = _native.load()
    if found is None and not _told and not _native.switched_off():
        _told = True
        print(
            f"deepstruct: graph metrics run on plain PyTorch (extension: {_native.problem()}); "
            "`deepstruct build-ext` builds it",
            file=sys.stderr,
        )
    return found


def available() -> bool:
    """Whether the compiled kernels are loaded. If not, one line on stderr says so, once.

    DEEPSTRUCT_NATIVE=0 switches them off, silently.
    """
    return module() is not None


def problem() -> str | None:
    """Why the kernels do not run; None if they do."""
    return _native.problem()


def path() -> str | None:
    """The library that runs."""
    found = _native.load()
    return None if found is None else found.__file__


def isa() -> str:
    """The instruction set of the kernels: avx512, avx2, plain, or "pytorch" without them."""
    found = _native.load()
    return "pytorch" if found is None else str(found.isa())


def set_threads(count: int) -> None:
    """Threads for the kernels; 0, the default, follows torch.get_num_threads()."""
    if count < 0:
        raise ValueError(f"{count} threads: it takes at least one, or 0 to follow torch")
    global _fixed_threads
    _fixed_threads = count


def threads() -> int:
    """Threads that the next call uses."""
    return _fixed_threads or torch.get_num_threads()


def plan_bytes() -> int:
    """Memory of all compiled operators; beyond DEEPSTRUCT_PLAN_BYTES (512 MiB) the least recently used go."""
    return _CACHE.bytes()


def clear() -> None:
    """Drop all compiled operators, and this thread's scratch memory."""
    _CACHE.clear()
    found = _native.load()
    if found is not None:
        found.release_scratch()


def push(
    op: EdgeOperator, semiring: str, source: torch.Tensor, out: torch.Tensor, *, transpose: bool = False,
    prime: int = 0, mode: WeightMode = "pattern", join: bool = True,
) -> bool:  # fmt: skip
    """out (join)= what the operator's edges make of source; False, with nothing done, if that is not supported.

    Args:
        semiring: a name of the table above; source and out have its dtype.
        source: values of the shape of op.source (op.target when transposed), with any strides; a stride of 0
            broadcasts.
        out: of the shape of the other side. No two of its elements may share memory. It may overlap with
            source.
        transpose: against the edges.
        prime: of "mod"; values are below it.
        mode: what the edges carry; other than the pattern for sums, the widest path and float lengths only.
        join: add to `out` (in the semiring's sense); False overwrites it.
    """
    graph = module()
    if graph is None or semiring not in DTYPES or isinstance(op, Channels):  # whose weights are no matrix to compile
        return False
    kinds = DTYPES[semiring]
    if source.dtype not in kinds or out.dtype not in kinds or source.device.type != "cpu" or out.device.type != "cpu":
        return False
    weighted = mode != "pattern" and op.weight is not None
    if weighted and (semiring not in _WEIGHTED or op.weight is None or op.weight.tensor.is_meta):
        return False
    if isinstance(op, Matmul) and op.running:
        return False  # a running sum takes a step per element, an explicit pattern one per pair
    call = _Call(graph, semiring, prime, threads())
    if type(op) is Identity:
        _identity(call, op, source, out, join)
        return True
    plan = _CACHE.get(op)
    if semiring in _DENSE and _torch_is_faster(op, plan, semiring, weighted):
        return False
    if semiring in _SELECTING and _of_one_value(call, op, plan, source, out, transpose, join):
        return True
    try:
        before = len(plan.passes) + len(plan.values)
        steps = plans.passes(graph, op, plan, transpose, weighted)
        if semiring == "mod" and any((p.pattern.largest_row + 1) * prime >= 2**63 for p in steps):
            return False
        weights = None
        if weighted:
            kind = torch.float64 if semiring == "sum_f64" else torch.float32
            weights = plans.values(op, plan, transpose, mode, kind)
        _run(call, op, steps, source, out, join, weights)
        if len(plan.passes) + len(plan.values) != before:
            _CACHE.trim(keep=plan)
    except plans.Unsupported:
        return False
    return True


def _torch_is_faster(op: EdgeOperator, plan: plans.Plan, semiring: str, weighted: bool) -> bool:
    """Sums in floating point: torch's dense kernels win on weights with few zeros."""
    if op.weight is None or isinstance(op, Sparse):
        return False
    if not weighted and getattr(op, "dense", False):
        return False  # channels are added up once
    return plans.alive_share(op, plan) > _DENSE[semiring]


def _of_one_value(
    call: _Call, op: EdgeOperator, plan: plans.Plan, source: torch.Tensor, out: torch.Tensor, transpose: bool,
    join: bool,
) -> bool:  # fmt: skip
    """Run an operator that reads one value everywhere: it arrives wherever there is an edge, no pattern is compiled."""
    if source.numel() == 0 or out.numel() == 0:
        return False
    values = source.numpy()
    first, last = values[(0,) * values.ndim], values[(-1,) * values.ndim]
    if first != last or values.min() != values.max():
        return False
    nothing = np.array(_SELECTING[call.semiring]).astype(values.dtype)
    if join and first == nothing:
        return True
    known = transpose in plan.joined
    where = plans.joined(op, plan, transpose)
    if where is None:
        return False
    if not known:
        _CACHE.trim(keep=plan)
    arriving = torch.from_numpy(np.where(where.numpy(), first, nothing).astype(values.dtype, copy=False))
    call.copy(arriving.expand(out.shape), out, join, call.semiring in _LENGTHS)
    return True


class _Call:
    """What does not change between the passes of one operator."""

    def __init__(self, graph: ModuleType, semiring: str, prime: int, threads: int) -> None:
        self.graph, self.semiring, self.prime, self.threads = graph, semiring, prime, threads

    def pattern(
        self, step: plans.Pass, source: torch.Tensor, out: torch.Tensor, join: bool, last: bool,
        weights: torch.Tensor | None,
    ) -> None:  # fmt: skip
        step.pattern.run(
            self.semiring, source.numpy(), out.numpy(), join, last, self.prime, self.threads,
            None if weights is None else weights.numpy(),
        )  # fmt: skip

    def copy(
        self, source: torch.Tensor, out: torch.Tensor, join: bool, last: bool, kept: torch.Tensor | None = None
    ) -> None:
        self.graph.identity(
            self.semiring, source.numpy(), out.numpy(), None if kept is None else kept.numpy(), join, last,
            self.prime, self.threads,
        )  # fmt: skip


def _identity(call: _Call, op: Identity, source: torch.Tensor, out: torch.Tensor, join: bool) -> None:
    """Values pass; lengths grow where the edge is one of the graph."""
    last, kept = call.semiring in _LENGTHS, None
    if last and op.fused is not False:
        last = op.fused is not True
        kept = op.kept() if last else None
    if _overlap(source, out):
        source = source.clone()
    call.copy(source, out, join, last, kept)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors may share memory: what lies between their first and last elements meets."""
    if a.numel() == 0 or b.numel() == 0:
        return False
    spans = [
        (t.data_ptr(), t.data_ptr() + (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)))
         * t.element_size()) for t in (a, b)
    ]  # fmt: skip
    return spans[0][0] < spans[1][1] and spans[1][0] < spans[0][1]


def _run(
    call: _Call, op: EdgeOperator, steps: list[plans.Pass], source: torch.Tensor, out: torch.Tensor, join: bool,
    weights: torch.Tensor | None,
) -> None:  # fmt: skip
    if isinstance(op, Separable):
        if not steps:  # every axis passes: edges one to one
            _identity(call, Identity(op.source, op.target), source, out, join)
            return
        for step in steps[:-1]:
            between = torch.empty(step.shape, dtype=source.dtype)
            call.pattern(step, _by_axis(source, step.axis), _by_axis(between, step.axis), False, False, None)
            source = between
        last = steps[-1]
        call.pattern(last, _by_axis(source, last.axis), _by_axis(out, last.axis), join, True, None)
        return
    [step] = steps
    view = _planes(op, source)
    assert view is not None
    into = _planes(op, out, copy=False)
    if into is None:  # its axes do not collapse in place
        fresh = torch.empty(out.shape, dtype=out.dtype)
        target = _planes(op, fresh)
        assert target is not None
        call.pattern(step, view, target, False, True, weights)
        call.copy(fresh, out, join, False)
    else:
        call.pattern(step, view, into, join, True, weights)


def _by_axis(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """(samples, 1, the axis, depth, height, width)."""
    assert axis is not None
    rest = plans.other_axes(tuple(x.shape), axis)
    kept = [a for a, n in enumerate(x.shape) if a != axis and n != 1]
    return _six(x, kept[: len(kept) - 3] if len(rest) == 4 else [], [], [axis], kept[-3:] if len(rest) == 4 else kept)


def _six(x: torch.Tensor, samples: list[int], groups: list[int], channels: list[int], axes: list[int]) -> torch.Tensor:
    """The kernels' six axes as a view: samples, groups, channels, depth, height, width."""

    def part(which: list[int], length: int) -> tuple[list[int], list[int]]:
        pad = length - len(which)
        return [1] * pad + [x.shape[a] for a in which], [0] * pad + [x.stride(a) for a in which]

    shape: list[int] = []
    stride: list[int] = []
    for which, length in ((samples, 1), (groups, 1), (channels, 1), (axes, 3)):
        n, s = part(which, length)
        shape += n
        stride += s
    return x.as_strided(shape, stride)


def _planes(op: EdgeOperator, x: torch.Tensor, copy: bool = True) -> torch.Tensor | None:
    """An operand's values as planes; None if that would need a copy and there must be none."""
    if isinstance(op, Sparse):
        flat = _collapse(x, range(x.dim()), copy)
        return None if flat is None else _six(flat, [], [], [0], [])
    if isinstance(op, Matmul):
        matrix = op.weight.tensor if op.weight is not None else op.pattern
        if matrix is not None and matrix.dim() > 2:
            flat = _collapse(x, range(x.dim() - 2), copy)
            return None if flat is None else _six(flat, [], [0], [2], [1])
        kept = [a for a, n in enumerate(x.shape[:-1]) if n != 1]
        flat = x.as_strided([*(x.shape[a] for a in kept), x.shape[-1]], [*(x.stride(a) for a in kept), x.stride(-1)])
        if len(kept) > 3:
            collapsed = _collapse(flat, range(len(kept) - 2), copy)
            if collapsed is None:
                return None
            flat = collapsed
        rows = list(range(flat.dim() - 1))
        return _six(flat, [], [], [flat.dim() - 1], rows)
    return _six(x, [0], [], [1], list(range(2, x.dim())))


def _collapse(x: torch.Tensor, axes: Sequence[int], copy: bool) -> torch.Tensor | None:
    """The first axes as one."""
    shape = (math.prod(x.shape[a] for a in axes), *x.shape[len(axes) :])
    if copy:
        return x.reshape(shape)
    try:
        return x.view(shape)
    except RuntimeError:
        return None
