"""The adjacency matrix of the whole graph as a linear map: sums over the edges, once, of each node's neighbors."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from deepstruct.engine import budget
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import spread, through
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Identity, WeightMode

_SUM = Counting()


def adjacency_action(
    graph: StructureGraph, x: torch.Tensor, *, transpose: bool = False, mode: WeightMode = "pattern",
    structural: bool = True,
) -> torch.Tensor:  # fmt: skip
    """A' x (sums over in-edges) or, transposed, A x (sums over out-edges), A[u, v] the edges u -> v.

    Multigraph: parallel edges add up, and so do self-loops. Edges into a unit that is part of a sum are edges
    into the sum; a fused identity is no edge. Acyclic or not.

    Args:
        x: one value per slot; what stands at slots that are no nodes does not matter.
        mode: the value of a weight edge: 1, |w|, w squared or w. Structural edges count 1 in every mode.
        structural: whether structural edges (pooling, identity, mixing) take part.

    Returns:
        One value per slot, 0 at slots that are no nodes, of x's dtype.
    """
    own = has_vector_entry(graph)
    x = vectors.converted(x, x.dtype if x.is_floating_point() else torch.float64)
    x.masked_fill_(~own, 0)
    semiring = Counting(x.dtype, mode)
    out = vectors.full(x.numel(), x.dtype)
    if transpose:
        spread_to_parts(graph, x)
    for op in graph.operators:
        budget.check()
        wanted = structural or op.weighted
        if isinstance(op, Identity):
            _identity(op, x, out, transpose, wanted)
        elif wanted:
            source = op.target if transpose else op.source
            spread(graph, op, source.gather(x), out, semiring, transpose=transpose)
    return out.masked_fill_(~own, 0)


def has_vector_entry(graph: StructureGraph) -> torch.Tensor:
    """Boolean per slot: False for parts of sums and for slots without a unit, where vectors over nodes are 0.

    True for the carriers of implicit scores, which hold the values of many nodes.
    """
    known = _entries.get(graph)
    if known is None:
        known = _entries[graph] = graph.is_node | graph.is_carrier if graph.score_spaces else graph.is_node
    return known


_entries: WeakKeyDictionary[StructureGraph, torch.Tensor] = WeakKeyDictionary()


def bilinear(graph: StructureGraph, rows: Sequence[torch.Tensor], y: torch.Tensor) -> list[float]:
    """x' A y for several x: the sum over the edges u -> v, parallel ones counted, of x[u] y[v].

    Args:
        rows: vectors x over the slots, of any floating-point dtype; sums are in float64.
        y: one value per slot; what stands at slots that are no nodes does not matter. It is not changed.

    No vector over the slots is made but a copy of y, in its dtype.
    """
    y = vectors.converted(y, y.dtype)
    y.masked_fill_(~has_vector_entry(graph), 0)
    spread_to_parts(graph, y)
    totals = [0.0] * len(rows)
    for op in graph.operators:
        budget.check()
        if isinstance(op, Identity):
            if op.fused is True:
                continue
            out, kept = op.target.gather(y), op.kept()
            out = out if kept is None else out * kept
        else:
            values = op.target.gather(y).to(_SUM.dtype)
            out = through(graph, op, values, _SUM, transpose=True)
        for k, x in enumerate(rows):
            here = op.source.gather(x)
            if op.source.scores is not None:
                totals[k] += op.source.scores.dot(here, out)
            else:
                totals[k] += float((here.to(torch.float64) * out).sum())
    return totals


def ones_on_nodes(graph: StructureGraph, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The vector over slots that is 1 at every node."""
    return graph.ones(dtype)


def symmetric_action(
    graph: StructureGraph, x: torch.Tensor, *, mode: WeightMode = "pattern", structural: bool = True
) -> torch.Tensor:
    """(A + A') x: sums over all neighbors, direction dropped. A self-loop counts twice, as in a degree.

    Both directions of an operator one after the other, into one vector: only the in-edges of a part are handed on to
    its sum, and nothing but the sum reads a part.
    """
    own = has_vector_entry(graph)
    x = vectors.converted(x, x.dtype if x.is_floating_point() else torch.float64)
    x.masked_fill_(~own, 0)
    spread_to_parts(graph, x)
    semiring = Counting(x.dtype, mode)
    out = vectors.full(x.numel(), x.dtype)
    for op in graph.operators:
        budget.check()
        wanted = structural or op.weighted
        if isinstance(op, Identity):
            _identity(op, x, out, False, wanted)
            _identity(op, x, out, True, wanted)
        elif wanted:
            spread(graph, op, op.source.gather(x), out, semiring)
            spread(graph, op, op.target.gather(x), out, semiring, transpose=True)
    return out.masked_fill_(~own, 0)


def _identity(op: Identity, x: torch.Tensor, out: torch.Tensor, transpose: bool, wanted: bool) -> None:
    """Kept elements carry x; a fused one hands the in-edges of the part on to its sum."""
    kept = op.kept()
    if transpose:
        if wanted:
            values = op.target.gather(x)
            op.source.accumulate(out, values if kept is None else values * kept)
        return
    passed = op.source.gather(out)  # complete: operators come in an order in which a part is written before
    if kept is None:
        if wanted:
            op.target.accumulate(out, op.source.gather(x))
    elif op.fused is True:
        op.target.accumulate(out, passed)
    else:
        own = op.source.gather(x) if wanted else torch.zeros_like(passed)
        op.target.accumulate(out, torch.where(kept, own, passed))


def spread_to_parts(graph: StructureGraph, x: torch.Tensor) -> torch.Tensor:
    """Give every unit that is part of a sum the value of the sum, in place; returns x."""
    for op in reversed(graph.operators):
        if not isinstance(op, Identity) or op.fused is False:
            continue
        if op.fused is True and op.source.stride is not None and op.source.injective:
            op.source.gather(x).copy_(op.target.gather(x))
            continue
        here, values = op.source.index(), op.target.gather(x)
        fused = (here >= 0) if op.fused is True else (here >= 0) & _as_mask(op.fused)
        x[here[fused]] = values[fused]
    return x


def _as_mask(flag: bool | torch.Tensor) -> torch.Tensor:
    return flag if isinstance(flag, torch.Tensor) else torch.tensor(flag)
