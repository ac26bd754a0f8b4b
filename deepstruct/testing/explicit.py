"""Brute force on the explicit edge list: reachability and path counts, independent of the engine."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from deepstruct.errors import StructureError
from deepstruct.structure.edges import EdgeList
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing.support import Support


def topological_order(edges: EdgeList) -> list[int]:
    """Node ids so that every edge points forward (Kahn's algorithm). Raises StructureError on a cycle."""
    degree = np.bincount(edges.target, minlength=edges.num_nodes)
    successors = _successors(edges)
    ready = deque(np.flatnonzero(degree == 0).tolist())
    order: list[int] = []
    while ready:
        node = ready.popleft()
        order.append(node)
        for other in successors[node]:
            degree[other] -= 1
            if degree[other] == 0:
                ready.append(other)
    if len(order) < edges.num_nodes:
        raise StructureError(f"the graph has a cycle through one of {edges.num_nodes - len(order)} nodes")
    return order


def _successors(edges: EdgeList) -> list[list[int]]:
    successors: list[list[int]] = [[] for _ in range(edges.num_nodes)]
    for u, v in zip(edges.source.tolist(), edges.target.tolist(), strict=True):
        successors[u].append(v)
    return successors


def count_paths(graph: StructureGraph) -> int:
    """Number of paths from sources to outputs as an exact integer; parallel edges are different paths."""
    edges = graph.edge_list()
    successors = _successors(edges)
    paths = [0] * edges.num_nodes
    for node in edges.inputs.tolist():
        paths[node] += 1
    for node in topological_order(edges):
        for other in successors[node]:
            paths[other] += paths[node]
    return sum(paths[node] for node in edges.outputs.tolist())


def graph_support(graph: StructureGraph) -> Support:
    """Which output elements some path connects to which source elements, found on the explicit graph.

    Only for zeroth-order graphs of models, which know the slot of every output element.
    """
    edges = graph.edge_list()
    ids = graph.node_ids()
    spaces = [s for s in graph.spaces if s.is_source]
    columns = torch.cat([ids[s.slots] for s in spaces]) if spaces else torch.empty(0, dtype=torch.int64)
    reached = [0] * edges.num_nodes  # a set of columns per node, as the bits of an integer
    for column, node in enumerate(columns.tolist()):
        if node >= 0:
            reached[node] |= 1 << column
    successors = _successors(edges)
    for node in topological_order(edges):
        bits = reached[node]
        if bits:
            for other in successors[node]:
                reached[other] |= bits
    rows: list[torch.Tensor] = []
    for _, operand in graph.outputs:
        slots = operand.index().reshape(-1)
        nodes = torch.where(slots >= 0, ids[slots.clamp(min=0)] if len(ids) else slots, -1)
        rows += [_bits(reached[n] if n >= 0 else 0, len(columns)) for n in nodes.tolist()]
    matrix = torch.stack(rows) if rows else torch.zeros(0, len(columns), dtype=torch.bool)
    return Support(
        matrix,
        [(name, operand.shape) for name, operand in graph.outputs],
        [(s.name, s.shape) for s in spaces],
    )


def _bits(number: int, width: int) -> torch.Tensor:
    raw = np.frombuffer(number.to_bytes((width + 7) // 8, "little"), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(raw, bitorder="little")[:width].astype(bool))
