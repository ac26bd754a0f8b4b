"""The quotient of a structure graph by a labelling of its slots: the definition of every higher order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator
from deepstruct.structure.orders.blocks import Block, operators_of
from deepstruct.structure.orders.labelling import Labelling, distinct
from deepstruct.structure.orders.pairs import Full, Pairs, label_pairs
from deepstruct.structure.space import Space

LEVELS = ("zeroth", "first", "second", "third")
_DROPPED = "self-loops are not drawn"


@dataclass(frozen=True)
class Group:
    """Nodes of the quotient that form one space: `labels` are slot labels, in node order."""

    name: str
    path: str
    kind: str
    labels: torch.Tensor
    call: int
    position: int
    names: list[str] | None = None
    members: tuple[str, ...] = ()


def quotient(graph: StructureGraph, order: str, **options: Any) -> StructureGraph:
    """The graph of a higher order. See `StructureGraph.quotient`."""
    from deepstruct.structure.orders.higher import PARTITIONS

    if order not in LEVELS or graph.order not in LEVELS:
        raise StructureError(f"unknown order {order!r}: choose one of {', '.join(LEVELS)}")
    here, there = LEVELS.index(graph.order), LEVELS.index(order)
    if there <= here:
        raise StructureError(f"a graph of {graph.order} order has no quotient of {order} order")
    for level in LEVELS[here + 1 : there + 1]:
        if level == "first" and there > 1:
            continue  # layers partition units as well as channels
        partition, allowed = PARTITIONS[level]
        labels, groups, conventions = partition(graph, **{k: v for k, v in options.items() if k in allowed})
        graph = collapse(graph, labels, groups, level, conventions)
    return graph


def collapse(
    graph: StructureGraph, labels: Labelling, groups: Sequence[Group], order: str, conventions: dict[str, str]
) -> StructureGraph:
    """The quotient: a node for each label, an edge where some edge of `graph` runs between two labels.

    Edges are simple; nodes with edges within themselves are counted and their self-loops dropped. A weight edge
    carries the sum of |w| over the zeroth-order edges that it stands for.

    Args:
        labels: of the slots of `graph`, -1 where there is no unit.
        groups: which labels are nodes, in an order in which edges point forward where that is possible.
    """
    resolved = labels.resolved()
    places = _Places(groups)
    blocks: dict[tuple[int, int, bool], Block] = {}
    loops: set[int] = set()

    def block(k: int, m: int, weighted: bool) -> Block:
        found = blocks.get((k, m, weighted))
        if found is None:
            shape = (groups[k].labels.numel(), groups[m].labels.numel())
            found = blocks[k, m, weighted] = Block(shape, weighted, k == m)
        return found

    for op in graph.operators:
        for piece in label_pairs(op, resolved.read(op.source), resolved.read(op.target)):
            if isinstance(piece, Pairs):
                for k, m, here in places.both(piece.source, piece.target):
                    source, target = places.local[piece.source[here]], places.local[piece.target[here]]
                    amount = None if piece.amount is None else piece.amount[here]
                    block(k, m, amount is not None).add_pairs(source, target, amount, piece.unknown)
                continue
            for k, inner in places.groups(piece.source):
                for m, outer in places.groups(piece.target):
                    if isinstance(piece, Full):
                        sources, targets = places.local[piece.source[inner]], places.local[piece.target[outer]]
                        block(k, m, False).add_full(sources.sort().values, targets.sort().values)
                        continue
                    part = piece.part(inner, outer)
                    block(k, m, part.weighted).add_product(part, places.local[part.source], places.local[part.target])
    for (k, m, _), found in blocks.items():
        if k == m:
            loops.update(groups[k].labels[list(found.loops)].tolist())
    if graph.self_loops is not None:  # what was dropped below is still there
        for space in graph.spaces:
            loops.update(distinct(resolved.of_slots(space, graph.self_loops[space.slots])).tolist())
    loops.discard(-1)
    return _assemble(graph, resolved, groups, blocks, loops, order, conventions)


class _Places:
    """Which group a label is in, and where in it; labels of no group are in none."""

    def __init__(self, groups: Sequence[Group]) -> None:
        size = 1 + max((int(g.labels.max()) for g in groups if g.labels.numel()), default=-1)
        self._group = torch.full((size + 1,), -1)  # the last entry is for labels without a node
        self.local = torch.full((size + 1,), -1)
        self._count = len(groups)
        for k, group in enumerate(groups):
            self._group[group.labels] = k
            self.local[group.labels] = torch.arange(group.labels.numel())

    def _of(self, labels: torch.Tensor) -> torch.Tensor:
        last = self._group.numel() - 1
        return self._group[torch.where((labels >= 0) & (labels < last), labels, last)]

    def groups(self, labels: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """(group, positions of the labels that are in it)."""
        group = self._of(labels)
        for k in distinct(group[group >= 0]).tolist():
            yield k, (group == k).nonzero().reshape(-1)

    def both(self, source: torch.Tensor, target: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor | slice]]:
        """(group of the source, group of the target, positions of the pairs that are in these two)."""
        a, b = self._of(source), self._of(target)
        codes = torch.where((a >= 0) & (b >= 0), a * self._count + b, -1)
        found = distinct(codes + 1).tolist()
        for code in found:
            if code:
                k, m = divmod(code - 1, self._count)
                yield k, m, slice(None) if len(found) == 1 else codes == code - 1


def _assemble(
    graph: StructureGraph, resolved: Labelling, groups: Sequence[Group],
    blocks: dict[tuple[int, int, bool], Block], loops: set[int], order: str, conventions: dict[str, str],
) -> StructureGraph:  # fmt: skip
    joined: dict[tuple[int, int], dict[bool, Block]] = defaultdict(dict)
    for (k, m, weighted), block in blocks.items():
        joined[k, m][weighted] = block
    sides = [Operand.strided((1, len(g.labels)), (len(g.labels), 1), 0) for g in groups]
    made = {}
    for (k, m), both in joined.items():
        key = (order, groups[k].name, groups[m].name)
        made[k, m] = operators_of(both.get(True), both.get(False), sides[k], sides[m], key)
    ranked, is_dag = _forward_order(len(groups), {pair for pair, operators in made.items() if operators})
    spaces: list[Space] = []
    offsets: dict[int, int] = {}
    total = 0
    for k in ranked:
        g = groups[k]
        offsets[k] = total
        spaces.append(Space(len(spaces), g.name, g.path, g.kind, (g.labels.numel(),), total, call=g.call,
                            position=g.position, node_names=g.names, members=g.members))  # fmt: skip
        total += g.labels.numel()
    place = {k: i for i, k in enumerate(ranked)}
    operators: list[EdgeOperator] = []
    for (k, m), several in sorted(made.items(), key=lambda item: (place[item[0][1]], place[item[0][0]])):
        for op in several:
            op.source, op.target = _moved(op.source, offsets[k]), _moved(op.target, offsets[m])
            op.name = groups[m].name
            operators.append(op)
    is_output, self_loops = torch.zeros(total, dtype=torch.bool), torch.zeros(total, dtype=torch.bool)
    size = 1 + max((int(g.labels.max()) for g in groups if g.labels.numel()), default=-1)
    marked, looped = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    for space in graph.spaces:
        chosen = graph.is_output[space.slots]
        if bool(chosen.any()):
            labels = resolved.of_slots(space, chosen)
            marked[labels[(labels >= 0) & (labels < size)]] = True
    looped[torch.tensor(sorted(loops), dtype=torch.int64)] = True
    for k in ranked:
        here = slice(offsets[k], offsets[k] + groups[k].labels.numel())
        is_output[here], self_loops[here] = marked[groups[k].labels], looped[groups[k].labels]
    notes = [note for note in graph.notes if not note.endswith(_DROPPED)]
    if loops:
        what = {"first": "channels", "second": "layers", "third": "cells"}[order]
        notes.append(f"{order} order: {len(loops)} {what} have edges within themselves; {_DROPPED}")
    if not is_dag:
        notes.append(f"{order} order: the graph has cycles (layers that are used again, such as recurrent ones)")
    return StructureGraph(
        order, graph.name, spaces, operators, is_output, None, graph.num_parameters, is_dag=is_dag,
        conventions={**graph.conventions, **conventions}, notes=notes, unknown=graph.unknown,
        providers=graph.providers, origin=graph, context=graph.context, num_self_loops=len(loops),
        self_loops=self_loops,
    )  # fmt: skip


def _moved(operand: Operand, offset: int) -> Operand:
    """An operand of a group, where the slots of the group begin at `offset`."""
    if operand.table is not None:
        return Operand.indexed(operand.table + offset)
    assert operand.stride is not None
    return Operand.strided(operand.shape, operand.stride, operand.offset + offset)


def _forward_order(count: int, edges: set[tuple[int, int]]) -> tuple[list[int], bool]:
    """Groups in an order in which edges point forward, keeping theirs where possible; False if there is none."""
    import heapq

    after: dict[int, list[int]] = defaultdict(list)
    waiting = [0] * count
    for a, b in edges:
        if a != b:
            after[a].append(b)
            waiting[b] += 1
    ready = [k for k in range(count) if waiting[k] == 0]
    heapq.heapify(ready)
    out = []
    while ready:
        k = heapq.heappop(ready)
        out.append(k)
        for m in after[k]:
            waiting[m] -= 1
            if waiting[m] == 0:
                heapq.heappush(ready, m)
    within = any(a == b for a, b in edges)
    if len(out) < count:
        return list(range(count)), False
    return out, not within
