"""The explicit graph: every edge written down, for graphs that are small enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from deepstruct.errors import CapacityError

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

_BYTES_PER_EDGE, _BYTES_PER_NODE = 72, 32  # three columns, and the copies that sorting makes


@dataclass(frozen=True)
class EdgeList:
    """Edges between nodes 0..n-1, sorted by source and then target; parallel edges are kept.

    `weight` is float64 per edge, NaN on structural edges. `inputs` and `outputs` are node ids, `space` the
    index of the space of each node.
    """

    num_nodes: int
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    space: np.ndarray

    @property
    def num_edges(self) -> int:
        return len(self.source)


def edge_list_bytes(graph: StructureGraph) -> int:
    """Memory that building the edge list takes, in bytes."""
    return _BYTES_PER_EDGE * graph.num_edges + _BYTES_PER_NODE * max(graph.num_nodes, graph.num_slots)


def build_edge_list(graph: StructureGraph, max_memory: int | None = None) -> EdgeList:
    """Write every edge down. Raises CapacityError, with the estimate, when it does not fit."""
    need = edge_list_bytes(graph)
    if max_memory is not None and need > max_memory:
        raise CapacityError(
            f"the explicit {graph.order}-order graph of {graph.name} has {graph.num_edges:,} edges and needs about "
            f"{need / 2**30:.3g} GiB; max_memory is {max_memory / 2**30:.3g} GiB. Raise max_memory, take a higher "
            "order, or use the operator analyzer, which never builds the graph."
        )
    ids = graph.node_ids()
    sources, targets, weights = [], [], []
    for op in graph.operators:
        source, target = graph.element_nodes(op, ids)
        for piece in op.edges():
            s, t = source[piece.source], target[piece.target]
            keep = (s >= 0) & (t >= 0)
            sources.append(s[keep])
            targets.append(t[keep])
            weights.append(piece.weight[keep])
    source_ids = _joined(sources, torch.int64)
    target_ids = _joined(targets, torch.int64)
    weight = _joined(weights, torch.float64)
    order = np.lexsort((target_ids, source_ids))
    per_space = [graph.nodes_in(block) for block in graph.spaces]
    space = np.repeat(np.array([block.index for block in graph.spaces], dtype=np.int64), per_space)
    return EdgeList(
        graph.num_nodes, source_ids[order], target_ids[order], weight[order],
        graph.input_nodes(), graph.output_nodes(), space,
    )  # fmt: skip


def _joined(parts: list[torch.Tensor], dtype: torch.dtype) -> np.ndarray:
    return (torch.cat(parts) if parts else torch.empty(0, dtype=dtype)).numpy()
