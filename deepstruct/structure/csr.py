"""The explicit graph as compressed sparse rows: 4 bytes an edge and 8 a node, straight from the operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from deepstruct import _native
from deepstruct.errors import CapacityError, InputError
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Identity, Sparse
from deepstruct.structure.windows import List, Mask, Pattern, Window, known, listed, pieces

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

Weights = Literal["float32", "float64", "index"]
MAX_NODES = 2**31 - 1
_CODES: dict[Weights, str] = {"float32": "f32", "float64": "f64", "index": "i64"}
_DTYPES: dict[Weights, Any] = {"float32": np.float32, "float64": np.float64, "index": np.int64}
_BYTES_PER_SLOT = 40  # node ids of all slots and of the elements of one operator, on both sides
_PIECE = 1 << 22  # edges that an operator of a plugin lists at once


@dataclass(frozen=True)
class ExplicitCsr:
    """Edges between nodes 0..num_nodes-1 as compressed sparse rows.

    The edges of node v lead to `indices[indptr[v]:indptr[v + 1]]`, ascending; parallel edges are kept, in ascending
    order of their weights (NaN last).

    Attributes:
        indptr: int64 (num_nodes + 1,).
        indices: int32 (num_edges,).
        weights: one number per edge, or None: the weight, NaN on structural edges (float32 or float64); or the
            position of the stored weight, -1 on structural edges (int64). Positions count the elements of
            `op.weight.tensor` of all operators with `op.weighted`, one after the other in the order of
            `graph.operators`.
    """

    num_nodes: int
    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray | None = None

    @property
    def num_edges(self) -> int:
        return len(self.indices)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(a.nbytes for a in (self.indptr, self.indices, self.weights) if a is not None)

    @cached_property
    def out_degree(self) -> np.ndarray:
        """int64 per node: edges out of it, parallel ones counted."""
        return np.diff(self.indptr)

    def sources(self, dtype: Any = np.int64) -> np.ndarray:
        """Source of every edge, in order."""
        return np.repeat(np.arange(self.num_nodes, dtype=dtype), self.out_degree)

    def transposed(self) -> ExplicitCsr:
        """Rows of the reversed edges, without weights."""
        native = _native.load()
        if native is not None:
            return ExplicitCsr(self.num_nodes, *native.csr_transpose(self.indptr, self.indices))
        order = np.argsort(self.indices, kind="stable")
        indptr = np.zeros(self.num_nodes + 1, np.int64)
        np.cumsum(np.bincount(self.indices, minlength=self.num_nodes), out=indptr[1:])
        return ExplicitCsr(self.num_nodes, indptr, self.sources(np.int32)[order])


def csr_bytes(graph: StructureGraph, weights: Weights | None = None) -> int:
    """Memory that building the rows takes at its peak, in bytes."""
    width = 4 + (0 if weights is None else np.dtype(_DTYPES[weights]).itemsize)
    if _native.load() is None:  # keys, values and the order that sorts them
        width = 28 if weights is None else 72
    masks = sum(op.weight.tensor.numel() for op in graph.operators if op.weight is not None) // 8
    most = max((n for n, op in zip(graph.operator_edges, graph.operators, strict=True) if not known(op)), default=0)
    return (
        width * graph.num_edges + 8 * graph.num_nodes + _BYTES_PER_SLOT * graph.num_slots
        + masks + 40 * min(most, _PIECE) + (1 << 16)
    )  # fmt: skip


def weights_wanted(weights: bool | str) -> Weights | None:
    """The `weights` argument of `StructureGraph.to_csr`. Raises InputError for what it does not know."""
    if isinstance(weights, bool):
        return "float64" if weights else None
    if weights not in _CODES:
        raise InputError(f"weights={weights!r}: choose True, False or one of {', '.join(map(repr, _CODES))}")
    return weights


def build_csr(graph: StructureGraph, weights: Weights | None = None, max_memory: int | None = None) -> ExplicitCsr:
    """Write every edge down. Raises CapacityError where it does not fit `max_memory` bytes."""
    if max_memory is not None:
        need = csr_bytes(graph, weights)
        if need > max_memory:
            raise CapacityError(too_large(graph, need, max_memory))
    if graph.num_nodes > MAX_NODES:
        raise CapacityError(
            f"{graph.name} has {graph.num_nodes:,} nodes at {graph.order} order, and columns of an explicit graph are "
            f"32-bit integers ({MAX_NODES:,} nodes at most). Take a higher order, or use the operator analyzer, which "
            "never builds the graph."
        )
    native = _native.load()
    return _listed(graph, weights) if native is None else _compiled(graph, weights, native)


def too_large(graph: StructureGraph, need: int, max_memory: int) -> str:
    """What to say of an explicit graph that does not fit."""
    return (
        f"the explicit {graph.order}-order graph of {graph.name} has {graph.num_edges:,} edges and needs about "
        f"{need / 2**30:.3g} GiB; max_memory is {max_memory / 2**30:.3g} GiB. Raise max_memory, take a higher "
        "order, or use the operator analyzer, which never builds the graph."
    )


class NodeMap:
    """From the elements of operators to nodes."""

    def __init__(self, graph: StructureGraph) -> None:
        self._graph = graph
        self._ids = graph.node_ids().to(torch.int32)
        parent = graph.parent  # -1 stays: a sum is a node
        self._sums = self._ids if parent is None else self._ids.index_select(0, parent)

    def ends(self, op: EdgeOperator) -> tuple[np.ndarray, np.ndarray]:
        """int32 node of each source and each target element, flat; -1 for none.

        The target of an edge into a part of a sum is that sum; an identity edge that was fused leads nowhere.
        """
        source, target = self._at(op.source, self._ids), self._at(op.target, self._sums)
        kept = op.kept() if isinstance(op, Identity) else None
        if kept is not None:
            target = target.masked_fill(~kept.reshape(-1), -1)
        return source.numpy(), target.numpy()

    def _at(self, side: Operand, ids: torch.Tensor) -> torch.Tensor:
        if side.scores is not None:  # operators number scores by unit
            return self._graph.score_nodes(side).to(torch.int32)
        if ids.numel() == 0:
            return torch.full((side.numel,), -1, dtype=torch.int32)
        return side.gather(ids, -1).reshape(-1).contiguous()




def _compiled(graph: StructureGraph, weights: Weights | None, native: ModuleType) -> ExplicitCsr:
    nodes = NodeMap(graph)
    indptr = np.zeros(graph.num_nodes + 1, np.int64)
    first = 0  # position of the operator's first stored weight
    operators: list[tuple[int, EdgeOperator]] = []
    for op in graph.operators:
        if not (isinstance(op, Identity) and op.fused is True):  # that one has no edges
            operators.append((first, op))
        first += _stored(op)
    masks: dict[tuple[int, int], np.ndarray | None] = {}  # of weights that were read here, for both passes
    tables: dict[int, list[Window | List]] = {}  # geometry without lists of edges, for both passes
    for k, (_, op) in enumerate(operators):
        source, target = nodes.ends(op)
        found: Iterable[Window | List] = pieces(op, None)
        if weights is None and known(op) and not isinstance(op, Sparse):
            found = tables[k] = list(found)
        for i, piece in enumerate(found):
            s, t = source[piece.source], target[piece.target]
            if isinstance(piece, Window):
                mask = piece.mask
                if isinstance(mask, Pattern) and t.min(initial=0) >= 0:
                    native.csr_count_alive(piece.geometry, piece.axes, mask.alive(), s, t, indptr)
                    continue
                bits = None if mask is None else mask.bits(native, piece.geometry)
                if isinstance(mask, Mask):
                    masks[k, i] = bits
                native.csr_count_window(piece.geometry, piece.axes, bits, s, t, indptr)
            else:
                native.csr_count_list(piece.rows, piece.cols, s, t, indptr)
    total = native.csr_starts(indptr)
    indices = np.empty(total, np.int32)
    values = None if weights is None else np.empty(total, _DTYPES[weights])
    code = _CODES[weights or "float32"]
    fill_window, fill_list = getattr(native, f"csr_fill_window_{code}"), getattr(native, f"csr_fill_list_{code}")
    for k, (first, op) in enumerate(operators):
        source, target = nodes.ends(op)
        for i, piece in enumerate(tables.pop(k, ()) or pieces(op, weights, first)):
            out = (source[piece.source], target[piece.target], indptr, indices, values)
            if isinstance(piece, Window):
                data, places = piece.data or (None, None)
                start, places = piece.positions or (-1, places)
                bits = masks.pop((k, i), None)
                if isinstance(piece.mask, Pattern):
                    bits = piece.mask.bits(native, piece.geometry)
                fill_window(piece.geometry, piece.axes, bits, data, places, start, piece.constant, *out)
            else:
                fill_list(piece.rows, piece.cols, piece.stored, piece.constant, *out)
    getattr(native, f"csr_finish_{code}")(indptr, indices, values)
    return ExplicitCsr(graph.num_nodes, indptr, indices, values)


def _stored(op: EdgeOperator) -> int:
    return op.weight.tensor.numel() if op.weight is not None and op.weighted else 0


def _listed(graph: StructureGraph, weights: Weights | None) -> ExplicitCsr:
    """The same with numpy alone: by lists of the operators' edges, sorted."""
    nodes, n = NodeMap(graph), max(graph.num_nodes, 1)
    keys: list[np.ndarray] = []
    values: list[np.ndarray] = []
    first = 0
    for op in graph.operators:
        source, target = nodes.ends(op)
        for rows, cols, numbers in listed(op, weights, first):
            s, t = source[rows].astype(np.int64), target[cols]
            keep = (s >= 0) & (t >= 0)
            keys.append(s[keep] * n + t[keep])
            if numbers is not None:
                values.append(numbers[keep])
        first += _stored(op)
    key = np.concatenate(keys) if keys else np.empty(0, np.int64)
    keys.clear()
    value = None
    if weights is None:
        key.sort()
    else:
        value = np.concatenate(values) if values else np.empty(0, _DTYPES[weights])
        values.clear()
        order = np.lexsort((value, key))
        key, value = key[order], value[order]
    indptr = np.searchsorted(key, np.arange(graph.num_nodes + 1, dtype=np.int64) * n)
    return ExplicitCsr(graph.num_nodes, indptr.astype(np.int64), (key % n).astype(np.int32), value)
