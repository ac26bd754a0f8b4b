"""Operators as the compiled builder of explicit graphs reads them: a mask, and a table of reach per axis."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from deepstruct.errors import StructureError
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Separable, Sparse, WeightRef, alive
from deepstruct.structure.operators.base import product
from deepstruct.structure.operators.contraction import Live

Axis = tuple[np.ndarray, np.ndarray, np.ndarray, int, int, int]


def _all() -> slice:
    return slice(None)


class Places(NamedTuple):
    """Where the stored weight of (channel c, output o of its group, tap k) lies.

    At c * channel + o * output + group * (the group of c) + taps[k], in elements.
    """

    channel: int
    output: int
    group: int
    taps: np.ndarray


class Mask(NamedTuple):
    """Weights to be read: those that are not zero are edges, or above a threshold that is positive."""

    data: np.ndarray
    places: Places
    threshold: float

    def bits(self, native: Any, geometry: dict[str, int]) -> np.ndarray:
        """One bit per channel, output and tap, as the compiled builder wants them."""
        code = {"float32": "f32", "float64": "f64", "uint8": "u8"}[self.data.dtype.name]
        bits: np.ndarray = getattr(native, f"csr_pack_{code}")(geometry, *self)
        return bits


class Pattern(NamedTuple):
    """What an operator that has read its weights knows of them."""

    live: Live
    by_output: bool  # whether its rows are the outputs, or the channels of the source

    def bits(self, native: Any, geometry: dict[str, int]) -> np.ndarray:
        """As of a mask."""
        assert self.live.bits is not None
        flat = self.live.bits.reshape(-1)
        bits: np.ndarray = native.csr_turn(geometry, flat) if self.by_output else flat
        return bits

    def alive(self) -> np.ndarray:
        """int64 per channel and tap: to how many outputs it leads."""
        counts = self.live.by_column if self.by_output else self.live.by_row
        return _int64(counts.reshape(-1))


@dataclass(frozen=True)
class Window:
    """Edges from source element (n, c, i1, ...) to target element (n, o, o1, ...): a mask of kernels between channels.

    Attributes:
        geometry: numbers and strides of batch and channels, in elements.
        axes: per axis start (positions + 1), output and tap of each reach, and strides in source, target and kernel.
        mask: which weights are edges; None where every tap is.
        data: the numbers that edges carry and where they lie; None where all have `constant` or a position.
        positions: position of the first stored weight and where the others are, where edges carry that.
        source, target: the elements at hand.
    """

    geometry: dict[str, int]
    axes: list[Axis]
    mask: Pattern | Mask | None = None
    data: tuple[np.ndarray, Places] | None = None
    positions: tuple[int, Places] | None = None
    constant: float | int = 0
    source: slice = field(default_factory=_all)
    target: slice = field(default_factory=_all)


@dataclass(frozen=True)
class List:
    """Edges from element rows[e] to cols[e]; from e to e where they are None."""

    rows: np.ndarray | None
    cols: np.ndarray | None
    stored: np.ndarray | None = None
    constant: float | int = 0
    source: slice = field(default_factory=_all)
    target: slice = field(default_factory=_all)


def known(op: EdgeOperator) -> bool:
    """Whether the compiled builder writes the edges without a list of them."""
    # exactly these classes: one of a plugin that derives from them may have other edges
    return type(op) in (Conv, Matmul, Separable, Identity, Sparse)


def pieces(op: EdgeOperator, numbers: str | None, first: int = 0) -> Iterator[Window | List]:
    """The edges of an operator, in as few pieces as its weights allow.

    Args:
        numbers: what each edge carries: "float32", "float64", "index" (the position of the stored weight), or None.
        first: position of the operator's first stored weight.
    """
    if 0 in (op.source.numel, op.target.numel):
        return
    carried = _Carried(op, numbers, first)
    small = max(op.source.numel, op.target.numel) < 2**31
    if type(op) is Conv and small:
        yield _conv(op, carried)
    elif type(op) is Matmul and small:
        yield from _matmul(op, carried)
    elif type(op) is Separable and small:
        yield _separable(op, carried)
    elif type(op) is Identity:
        yield List(None, None, None, carried.structural)
    elif type(op) is Sparse:
        yield _sparse(op, carried)
    else:
        yield from _any(op, carried)


class _Carried:
    """What the edges of one operator carry."""

    def __init__(self, op: EdgeOperator, kind: str | None, first: int) -> None:
        self.kind, self.first, self.weighted = kind, first, op.weighted
        self.structural: float | int = -1 if kind == "index" else float("nan")
        self.dtype = torch.float32 if kind == "float32" else torch.float64

    def constant(self, ref: WeightRef | None) -> float | int:
        """Of an edge that has no stored number: weights without values count as ones."""
        return 1.0 if self.weighted and ref is not None and self.kind != "index" else self.structural

    def numbers(
        self, ref: WeightRef, tensor: torch.Tensor, position: int, places: Callable[[Sequence[int]], Places]
    ) -> dict[str, Any]:
        """`data` or `positions` of a window on `tensor`, a part of the weights that begins at `position`.

        `places` makes places from strides of that tensor.
        """
        if self.kind is None or not self.weighted:
            return {}
        if self.kind == "index":
            return {"positions": (self.first + position, places(_row_major(tuple(tensor.shape))))}
        if ref.tensor.is_meta:
            return {}
        values = tensor.detach()
        if values.dtype not in (torch.float32, torch.float64):
            values = values.to(self.dtype)
        return {"data": (_storage(values), places(values.stride()))}


def _mask(
    tensor: torch.Tensor, threshold: float, places: Callable[[Sequence[int]], Places],
    live: Live | None, by_output: bool,
) -> Pattern | Mask:  # fmt: skip
    """Which weights are edges, for the compiled builder."""
    if live is not None and live.bits is not None:
        return Pattern(live, by_output)
    tensor = tensor.detach()
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor, threshold = alive(tensor, threshold).view(torch.uint8), 0
    return Mask(_storage(tensor), places(tensor.stride()), max(threshold, 0))


def _storage(tensor: torch.Tensor) -> np.ndarray:
    """All that a strided tensor reaches, as one flat view."""
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((reach + 1,), (1,), tensor.storage_offset()).numpy()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def _table(positions: int, here: torch.Tensor, out: torch.Tensor, tap: torch.Tensor | None) -> tuple[Any, Any, Any]:
    """(start, out, tap) of an axis from its (position, output, tap) triples."""
    rows, columns = here.numpy(), out.numpy()  # numpy is quicker on tables as small as these
    order = np.lexsort((columns, rows))
    start = np.zeros(positions + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=positions), out=start[1:])
    taps = np.zeros(len(order), np.int32) if tap is None else tap.numpy()[order].astype(np.int32)
    return start, columns[order].astype(np.int32), taps


def _through(positions: int, source: int, target: int) -> Axis:
    """An axis that is passed through one to one."""
    here = np.arange(positions + 1, dtype=np.int64)
    return here, here[:-1].astype(np.int32), np.zeros(positions, np.int32), source, target, 0


def _flat(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.contiguous().numpy()


def _conv(op: Conv, carried: _Carried) -> Window:
    (batch, c_in, *in_shape), (_, c_out, *out_shape) = op.source.shape, op.target.shape
    n_in, n_out, groups, tensor = product(in_shape), product(out_shape), op.groups, op.weight.tensor
    source, target, kernel = _row_major(tuple(in_shape)), _row_major(tuple(out_shape)), _row_major(op.kernel)
    axes: list[Axis] = []
    tables: dict[tuple[int, ...], tuple[Any, Any, Any]] = {}  # images are square: one table serves both axes
    for a in range(len(op.kernel)):
        like = (in_shape[a], out_shape[a], op.kernel[a], op.stride[a], op.padding[a], op.dilation[a])
        if like not in tables:
            tap, out, here = op.taps[a].unbind()
            tables[like] = _table(in_shape[a], here, out, tap)
        axes.append((*tables[like], source[a], target[a], kernel[a]))
    inner, outer = c_in // groups, c_out // groups
    geometry = {
        "batch": batch, "source_batch": c_in * n_in, "target_batch": c_out * n_out, "channels": c_in,
        "group_in": inner, "group_out": outer, "source_channel": n_in, "target_channel": n_out,
        "taps": product(op.kernel), "mirrored": int(not op.transposed and product(op.kernel) > 1),
    }  # fmt: skip

    def places(strides: Sequence[int]) -> Places:
        taps = Operand.strided(op.kernel, tuple(strides[2:]), 0).index().reshape(-1).numpy()
        if op.transposed:
            return Places(strides[0], strides[1], 0, taps)
        return Places(strides[1], strides[0], outer * strides[0] - inner * strides[1], taps)

    mask = None if op.dense else _mask(tensor, op.threshold, places, op.live, not op.transposed)
    numbers = carried.numbers(op.weight, tensor, 0, places)
    return Window(geometry, axes, mask, constant=carried.constant(op.weight), **numbers)


def _matmul(op: Matmul, carried: _Carried) -> Iterator[Window | List]:
    matrix = op.pattern if op.weight is None else op.weight.tensor
    if matrix is None:
        yield _rows_of(op, op.source.numel // op.inner, None, {}, carried.structural)
        return
    if not isinstance(matrix, torch.Tensor):
        yield from _any(op, carried)
        return
    lead = tuple(op.source.shape[:-2]) if matrix.dim() > 2 else ()
    stacked = matrix.expand(*lead, op.inner, op.outer)
    strides = _row_major(tuple(matrix.shape))
    first = Operand.strided(lead, (*(0,) * (len(lead) - matrix.dim() + 2), *_spread(matrix.shape[:-2], strides)), 0)
    rows = op.source.numel // op.inner // product(lead)
    for block, position in enumerate(first.index().reshape(-1).tolist()):
        here = stacked[tuple(np.unravel_index(block, lead))] if lead else stacked
        mask = None
        if not (op.dense or matrix.is_meta):
            mask = _mask(here, op.threshold, _matrix_places, op.live, op.outer_first)
        numbers = {} if op.weight is None else carried.numbers(op.weight, here, position, _matrix_places)
        yield _rows_of(op, rows, mask, numbers, carried.constant(op.weight), block)


def _spread(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides of an expanded view: none along axes of length one."""
    return tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=False))


def _matrix_places(strides: Sequence[int]) -> Places:
    return Places(strides[0], strides[1], 0, np.zeros(1, np.int64))


def _rows_of(
    op: Matmul, rows: int, mask: Pattern | Mask | None, numbers: dict[str, Any],
    constant: float | int, block: int = 0,
) -> Window:  # fmt: skip
    geometry = {
        "batch": 1, "source_batch": 0, "target_batch": 0, "channels": op.inner, "group_in": op.inner,
        "group_out": op.outer, "source_channel": 1, "target_channel": 1, "taps": 1, "mirrored": 0,
    }  # fmt: skip
    source, target = (slice(block * rows * n, (block + 1) * rows * n) for n in (op.inner, op.outer))
    axes = [_through(rows, op.inner, op.outer)]
    return Window(geometry, axes, mask, constant=constant, source=source, target=target, **numbers)


def _separable(op: Separable, carried: _Carried) -> Window:
    source, target = _row_major(op.source.shape), _row_major(op.target.shape)
    axes: list[Axis] = []
    for a, matrix in enumerate(op.axes):
        if matrix is None:
            axes.append(_through(op.source.shape[a], source[a], target[a]))
        else:
            here, out = matrix.T.nonzero(as_tuple=True)
            axes.append((*_table(op.source.shape[a], here, out, None), source[a], target[a], 0))
    geometry = dict.fromkeys(("batch", "channels", "group_in", "group_out", "taps"), 1)
    geometry |= dict.fromkeys(("source_batch", "target_batch", "source_channel", "target_channel", "mirrored"), 0)
    return Window(geometry, axes, constant=carried.structural)


def _sparse(op: Sparse, carried: _Carried) -> List:
    rows, cols, stored = op.rows, op.cols, None
    ref = op.weight
    if ref is not None:
        if carried.kind is not None and carried.weighted:
            if carried.kind == "index":
                stored = torch.arange(carried.first, carried.first + rows.numel())
            elif not ref.tensor.is_meta:
                stored = ref.tensor.detach().to(carried.dtype)
        if not ref.tensor.is_meta:
            live = alive(ref.tensor, op.threshold)
            if not bool(live.all()):
                rows, cols = rows[live], cols[live]
                stored = None if stored is None else stored[live]
    return List(_int64(rows), _int64(cols), _flat(stored), carried.constant(ref))


def _any(op: EdgeOperator, carried: _Carried) -> Iterator[List]:
    """An operator of another class: by its own list of edges."""
    for rows, cols, stored in listed(op, carried.kind, carried.first):
        yield List(rows, cols, stored, carried.structural)


def listed(
    op: EdgeOperator, numbers: str | None, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """(source element, target element, number) of every edge, as `op.edges()` gives them; arguments as in `pieces`."""
    if numbers == "index" and op.weighted:
        op = _with_positions(op)
    for piece in op.edges():
        stored: torch.Tensor | None = None
        if numbers == "index":
            stored = piece.weight.nan_to_num(nan=-first).to(torch.int64) + (first - 1)
        elif numbers is not None:
            stored = piece.weight.to(torch.float32 if numbers == "float32" else torch.float64)
        yield _int64(piece.source), _int64(piece.target), _flat(stored)


def _int64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.int64).contiguous().numpy()


def _with_positions(op: EdgeOperator) -> EdgeOperator:
    """The operator with 1 + the position of each stored weight in the place of its value: `edges()` then tells it."""
    if op.weight is None or type(op) not in (Conv, Matmul, Sparse):
        raise StructureError(
            f"{type(op).__name__} of {op.name!r} does not say which stored weight an edge has: ask for the weights "
            "themselves"
        )
    tensor = op.weight.tensor
    position = torch.arange(1, tensor.numel() + 1, dtype=torch.float64).reshape(tensor.shape)  # exact below 2^53
    if not tensor.is_meta:
        position = position * alive(tensor, getattr(op, "threshold", 0.0))
    twin = copy.copy(op)
    twin.weight = WeightRef(op.weight.key, position)
    if hasattr(twin, "threshold"):
        twin.threshold = 0.0
    return twin
