"""The quotient of a structure graph by a labelling of its slots: the definition of every higher order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import EdgeOperator, Matmul, Sparse, WeightRef
from deepstruct.structure.orders.labels import distinct
from deepstruct.structure.orders.pairs import label_pairs
from deepstruct.structure.space import Space

LEVELS = ("zeroth", "first", "second", "third")


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


@dataclass
class _Block:
    """Edges between two groups: pairs, or a matrix once pairs would take more room."""

    shape: tuple[int, int]
    codes: list[torch.Tensor] = field(default_factory=list)
    amounts: list[torch.Tensor] = field(default_factory=list)
    matrix: torch.Tensor | None = None

    def add(self, source: torch.Tensor, target: torch.Tensor, amount: torch.Tensor) -> None:
        if self.matrix is not None:
            self.matrix.view(-1).index_add_(0, source * self.shape[1] + target, amount.to(self.matrix.dtype))
            return
        self.codes.append(source * self.shape[1] + target)
        self.amounts.append(amount)
        if 4 * sum(c.numel() for c in self.codes) > self.shape[0] * self.shape[1]:
            self.matrix = torch.zeros(self.shape, dtype=torch.float32)
            for codes, values in zip(self.codes, self.amounts, strict=True):
                smallest = torch.finfo(torch.float32).tiny  # an edge stays one, however small its weight
                self.matrix.view(-1).index_add_(0, codes, values.clamp(min=smallest).to(torch.float32))
            self.codes, self.amounts = [], []

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct codes, and the amounts added up."""
        codes, inverse = torch.unique(torch.cat(self.codes), return_inverse=True)
        amounts = torch.zeros(codes.numel(), dtype=torch.float64)
        amounts.index_add_(0, inverse, torch.cat(self.amounts))
        return codes, amounts


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
    graph: StructureGraph, labels: torch.Tensor, groups: Sequence[Group], order: str, conventions: dict[str, str]
) -> StructureGraph:
    """The quotient: a node for each label, an edge where some edge of `graph` runs between two labels.

    Edges are simple; self-loops are counted in a note and dropped. A weight edge carries the sum of |w|
    over the zeroth-order edges that it stands for.

    Args:
        labels: int64 per slot of `graph`, -1 where there is no unit.
        groups: which labels are nodes, in an order in which edges point forward where that is possible.
    """
    size = 1 + max((int(t.max()) for t in (labels, *(g.labels for g in groups)) if t.numel()), default=-1)
    group_of = torch.full((size,), -1)
    local_of = torch.full((size,), -1)
    for k, group in enumerate(groups):
        group_of[group.labels] = k
        local_of[group.labels] = torch.arange(group.labels.numel())
    resolved = labels if graph.parent is None else labels[graph.parent]
    blocks: dict[tuple[int, int, bool], _Block] = {}
    loops: set[int] = set()
    for op in graph.operators:
        for piece in label_pairs(op, op.source.gather(resolved, -1), op.target.gather(resolved, -1)):
            weighted = piece.amount is not None
            amount = torch.ones(piece.source.numel(), dtype=torch.float64) if piece.amount is None else piece.amount
            source, target = piece.source, piece.target
            same = source == target
            if bool(same.any()):
                loops.update(source[same].tolist())
                source, target, amount = source[~same], target[~same], amount[~same]
            _scatter(blocks, groups, group_of, local_of, source, target, amount, weighted)
    return _assemble(graph, resolved, groups, blocks, loops, order, conventions)


def _scatter(
    blocks: dict[tuple[int, int, bool], _Block], groups: Sequence[Group], group_of: torch.Tensor,
    local_of: torch.Tensor, source: torch.Tensor, target: torch.Tensor, amount: torch.Tensor, weighted: bool,
) -> None:  # fmt: skip
    a, b = group_of[source], group_of[target]
    codes = torch.where((a >= 0) & (b >= 0), a * len(groups) + b, -1)
    found = distinct(codes + 1).tolist()
    for code in found:
        if code == 0:
            continue
        here = slice(None) if len(found) == 1 else codes == code - 1
        k, m = divmod(code - 1, len(groups))
        block = blocks.get((k, m, weighted))
        if block is None:
            block = blocks[k, m, weighted] = _Block((groups[k].labels.numel(), groups[m].labels.numel()))
        block.add(local_of[source[here]], local_of[target[here]], amount[here])


def _assemble(
    graph: StructureGraph, resolved: torch.Tensor, groups: Sequence[Group],
    blocks: dict[tuple[int, int, bool], _Block], loops: set[int], order: str, conventions: dict[str, str],
) -> StructureGraph:  # fmt: skip
    ranked, is_dag = _forward_order(len(groups), {(k, m) for k, m, _ in blocks})
    spaces: list[Space] = []
    offsets: dict[int, int] = {}
    total = 0
    for k in ranked:
        g = groups[k]
        offsets[k] = total
        spaces.append(Space(len(spaces), g.name, g.path, g.kind, (g.labels.numel(),), total, call=g.call,
                            position=g.position, node_names=g.names))  # fmt: skip
        total += g.labels.numel()
    place = {k: i for i, k in enumerate(ranked)}
    operators: list[EdgeOperator] = []
    for (k, m), both in sorted(_by_target(blocks).items(), key=lambda item: (place[item[0][1]], place[item[0][0]])):
        source = Operand.strided((1, groups[k].labels.numel()), (groups[k].labels.numel(), 1), offsets[k])
        target = Operand.strided((1, groups[m].labels.numel()), (groups[m].labels.numel(), 1), offsets[m])
        made = _operators(source, target, both.get(True), both.get(False), (order, groups[k].name, groups[m].name))
        for op in made:
            op.name = groups[m].name
        operators += made
    is_output = torch.zeros(total, dtype=torch.bool)
    outputs = set(resolved[graph.is_output].tolist())
    for k in ranked:
        for i, label in enumerate(groups[k].labels.tolist()):
            if label in outputs:
                is_output[offsets[k] + i] = True
    notes = list(graph.notes)
    if loops:
        what = {"first": "channels", "second": "layers", "third": "cells"}[order]
        notes.append(f"{order} order: {len(loops)} {what} have edges within themselves; self-loops are not drawn")
    if not is_dag:
        notes.append(f"{order} order: the graph has cycles (layers that are used again, such as recurrent ones)")
    return StructureGraph(
        order, graph.name, spaces, operators, is_output, None, graph.num_parameters, is_dag=is_dag,
        conventions={**graph.conventions, **conventions}, notes=notes, unknown=graph.unknown,
        providers=graph.providers, origin=graph, context=graph.context, num_self_loops=len(loops),
    )  # fmt: skip


def _by_target(blocks: dict[tuple[int, int, bool], _Block]) -> dict[tuple[int, int], dict[bool, _Block]]:
    joined: dict[tuple[int, int], dict[bool, _Block]] = defaultdict(dict)
    for (k, m, weighted), block in blocks.items():
        joined[k, m][weighted] = block
    return joined


def _operators(
    source: Operand, target: Operand, weighted: _Block | None, plain: _Block | None, key: tuple[Any, ...]
) -> list[EdgeOperator]:
    """One operator for weight edges and one for those that are only structural."""
    made: list[EdgeOperator] = []
    taken: torch.Tensor | None = None
    width = target.shape[-1]
    if weighted is not None:
        if weighted.matrix is not None:
            made.append(Matmul(source, target, WeightRef(key, weighted.matrix)))
            if plain is not None:
                taken = weighted.matrix.view(-1).nonzero().view(-1)
        else:
            codes, amounts = weighted.pairs()
            made.append(Sparse(source, target, codes // width, codes % width, WeightRef(key, amounts)))
            taken = codes
    if plain is not None:
        codes = plain.matrix.view(-1).nonzero().view(-1) if plain.matrix is not None else plain.pairs()[0]
        if taken is not None:
            codes = codes[~torch.isin(codes, taken)]
        total = source.shape[-1] * width
        if codes.numel() == total:
            made.append(Matmul(source, target))
        elif 4 * codes.numel() > total:
            pattern = torch.zeros(total, dtype=torch.bool)
            pattern[codes] = True
            made.append(Matmul(source, target, pattern=pattern.view(-1, width)))
        elif codes.numel():
            made.append(Sparse(source, target, codes // width, codes % width))
    return made


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
