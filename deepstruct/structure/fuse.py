"""Fused sums: a unit whose only out-edge is a linear identity edge into a sum is part of that sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deepstruct.structure.operators import EdgeOperator, Identity, Matmul
from deepstruct.structure.space import Space


def fuse_sums(
    spaces: Sequence[Space], operators: Sequence[EdgeOperator], is_output: torch.Tensor
) -> torch.Tensor | None:
    """Marks fused identity edges on their operators and says which slot each unit became part of.

    One transposed pass gives the out-degrees of the units in question; pointers are then followed to
    the last sum. The result does not depend on how a library batches its projections.

    Args:
        is_output: boolean per slot.

    Returns:
        int64 per slot: the slot of the sum that it is part of, itself for all others; None if nothing fused.
    """
    sums = [op for op in operators if isinstance(op, Identity) and op.fusable is not False]
    if not sums:
        return None
    offsets = torch.tensor([s.offset for s in spaces])
    additive = torch.tensor([s.additive for s in spaces])
    wanted = torch.zeros(len(spaces), dtype=torch.bool)
    for op in sums:
        wanted[_spaces_of(op, offsets)] = True
    wanted &= additive
    if not bool(wanted.any()):
        return None
    slots = is_output.numel()
    live = live_slots(spaces, slots)
    out_degree = torch.zeros(slots, dtype=torch.float32)
    for reader in operators:
        if not bool(wanted[_spaces_of(reader, offsets)].any()):
            continue
        if isinstance(reader, Matmul) and reader.dense and reader.target.numel and (live is None or _all_live(reader, live)):
            reader.source.accumulate(out_degree, torch.ones(()).expand(reader.source.shape))
            continue
        y = reader.target.ones(torch.float32)
        if live is not None:
            y = reader.target.gather(live).to(torch.float32)
        out = reader.backward(y)
        # one edge or many is all the same here, and many may round to anything
        reader.source.accumulate(out_degree, out if isinstance(reader, Identity) else (out > 0.5).to(out.dtype))
    can = (out_degree > 0.5) & (out_degree < 1.5) & ~is_output
    for space, ok in zip(spaces, wanted.tolist(), strict=True):
        if not ok:
            can[space.slots] = False
    if live is not None:
        can &= live
    parent: torch.Tensor | None = None
    parts: list[torch.Tensor] = []
    for op in sums:
        fused = op.source.gather(can, False)
        if isinstance(op.fusable, torch.Tensor):
            fused = fused & op.fusable
        if not bool(fused.any()):
            continue
        everything = bool(fused.all())
        op.fused = True if everything else fused.clone()
        here, there = op.source.index(), op.target.index()
        here, there = (here.reshape(-1), there.reshape(-1)) if everything else (here[fused], there[fused])
        parent = torch.arange(slots) if parent is None else parent
        parent[here] = there
        parts.append(here)
    return None if parent is None else _followed(parent, torch.cat(parts))


def _all_live(op: EdgeOperator, live: torch.Tensor) -> bool:
    return bool(op.target.gather(live).all())


def _followed(parent: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """Pointers to the last sum: a sum can itself be part of a later one."""
    here = parent[parts]
    while True:
        further = parent[here]
        if torch.equal(further, here):
            parent[parts] = here
            return parent
        here = further


def live_slots(spaces: Sequence[Space], slots: int) -> torch.Tensor | None:
    """Boolean per slot, False where there is no unit; None where all are."""
    if all(s.live is None for s in spaces):
        return None
    live = torch.ones(slots, dtype=torch.bool)
    for space in spaces:
        if space.live is not None:
            live[space.slots] = space.live
    return live


def _spaces_of(op: EdgeOperator, offsets: torch.Tensor) -> torch.Tensor:
    """Indices of the spaces that an operator reads."""
    if op.source.table is None:
        first = torch.tensor([op.source.offset])
    else:
        table = op.source.table
        first = table[table >= 0]
        if first.numel() == 0:
            return first
    seen = torch.zeros(offsets.numel(), dtype=torch.bool)
    seen[torch.searchsorted(offsets, first, right=True) - 1] = True
    return seen.nonzero().reshape(-1)
