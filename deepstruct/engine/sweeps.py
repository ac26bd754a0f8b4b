"""The three primitives: apply one operator, sweep through all in order, repeat until nothing changes."""

from __future__ import annotations

import numpy as np
import torch

from deepstruct.engine import budget, native
from deepstruct.engine.semiring import BOOLEAN, Semiring
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator


def apply(
    graph: StructureGraph, op: EdgeOperator, slots: torch.Tensor, semiring: Semiring, *, transpose: bool = False
) -> torch.Tensor:
    """What one operator carries from the slots it reads to its other side, element by element.

    Slots that are no units (removed scores) neither send nor receive.
    """
    values = semiring.read(slots, op.target if transpose else op.source)
    return through(graph, op, values, semiring, transpose=transpose)


def through(
    graph: StructureGraph, op: EdgeOperator, values: torch.Tensor, semiring: Semiring, *, transpose: bool = False
) -> torch.Tensor:
    """As `apply`, given the values on the side that is read."""
    source, target = (op.target, op.source) if transpose else (op.source, op.target)
    dead_source, dead_target = _dead(graph, op, transpose)
    if dead_source:
        values = _where_live(graph, source, values, semiring)
    out = carry(op, values, semiring, transpose=transpose)
    return _where_live(graph, target, out, semiring) if dead_target else out


def carry(op: EdgeOperator, values: torch.Tensor, semiring: Semiring, *, transpose: bool = False) -> torch.Tensor:
    """What the edges of an operator make of the values on one side, by a compiled kernel where there is one.

    Args:
        values: of the shape of the operator's source (target when transposed), `semiring.zero` where there is
            no unit.
    """
    if semiring.native is not None and native.available():
        side = op.source if transpose else op.target
        out = torch.empty(side.shape, dtype=semiring.dtype)
        if native.push(
            op, semiring.native, values, out, transpose=transpose, prime=semiring.prime, mode=semiring.mode, join=False
        ):
            return out
    return semiring.carry(op, values, transpose)


def push(
    graph: StructureGraph, op: EdgeOperator, slots: torch.Tensor, semiring: Semiring, *, transpose: bool = False
) -> None:
    """Join what one operator carries into the slots on its other side, in place where a kernel can."""
    source = op.target if transpose else op.source
    spread(graph, op, semiring.read(slots, source), slots, semiring, transpose=transpose)


def spread(
    graph: StructureGraph, op: EdgeOperator, values: torch.Tensor, slots: torch.Tensor, semiring: Semiring,
    *, transpose: bool = False, place: Operand | None = None,
) -> None:  # fmt: skip
    """Join what the edges of an operator make of `values` into `slots`, in place where a kernel can.

    Args:
        values: of the shape of the operator's source (target when transposed), `semiring.zero` where there is
            no unit. Slots that are no units (removed scores) neither send nor receive.
        place: where in `slots` the elements of the side that is written are; None where `slots` are those of the
            graph.
    """
    source, target = (op.target, op.source) if transpose else (op.source, op.target)
    dead_source, dead_target = _dead(graph, op, transpose)
    if dead_source:
        values = _where_live(graph, source, values, semiring)
    into = target if place is None else place
    in_place = semiring.native is not None and native.available() and into.injective and not dead_target
    if in_place and native.push(
        op, semiring.native or "", values, into.gather(slots), transpose=transpose, prime=semiring.prime,
        mode=semiring.mode, join=True,
    ):  # fmt: skip
        return
    out = carry(op, values, semiring, transpose=transpose)
    semiring.join(slots, into, _where_live(graph, target, out, semiring) if dead_target else out)


def _dead(graph: StructureGraph, op: EdgeOperator, transpose: bool) -> tuple[bool, bool]:
    """Whether the side that is read, and the one that is written, have slots that are no units."""
    source, target = graph.meets_dead_slots(op)
    return (target, source) if transpose else (source, target)


def _where_live(graph: StructureGraph, operand: Operand, values: torch.Tensor, semiring: Semiring) -> torch.Tensor:
    assert graph.live is not None
    live = operand.gather(graph.live, False)
    return torch.where(live, values, torch.as_tensor(semiring.zero, dtype=values.dtype))


def sweep(graph: StructureGraph, start: torch.Tensor, semiring: Semiring, *, transpose: bool = False) -> torch.Tensor:
    """One pass through all operators, along the edges or (transposed) against them.

    Args:
        start: one value per slot; it is copied.

    Returns:
        One value per slot: `start` joined with everything that paths of any length carry there. Raises
        MetricError on a graph with cycles, where one pass is not enough (see `fixpoint`).
    """
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: one sweep does not reach everything")
    return semiring.leave(_pass(graph, semiring.enter(start), semiring, transpose))


def fixpoint(
    graph: StructureGraph, start: torch.Tensor, *, directions: tuple[bool, ...] = (False, True), limit: int = 10_000,
    most: int | None = None,
) -> torch.Tensor:  # fmt: skip
    """Boolean sweeps in the given directions (False: along the edges, True: against them) until nothing changes.

    With both directions this floods the weakly connected component of what `start` marks. A unit that is part of a
    sum and the sum are one node: the identity edge between them carries marks both ways.

    Args:
        most: slots that can be marked at all, where the caller knows: there is no need to look further then.

    Returns:
        uint8 per slot, 0 or 1.
    """
    slots = (start > 0.5).view(BOOLEAN.dtype)
    del start  # a vector less where the caller has no use for it
    before = -1
    for _ in range(limit):
        for transpose in directions:
            slots = _pass(graph, slots, BOOLEAN, transpose)
            now = int(np.count_nonzero(slots.numpy()))
            if now == most:
                return slots
        if now == before:
            return slots
        before = now
    raise MetricError(f"no fixpoint after {limit} rounds of sweeps")


def _pass(graph: StructureGraph, slots: torch.Tensor, semiring: Semiring, transpose: bool) -> torch.Tensor:
    for op in reversed(graph.operators) if transpose else graph.operators:
        budget.check()
        push(graph, op, slots, semiring, transpose=transpose)
    return slots
