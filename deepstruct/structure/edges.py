"""The explicit graph: every edge written down, for graphs that are small enough."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from deepstruct.errors import CapacityError
from deepstruct.structure.csr import ExplicitCsr, build_csr, csr_bytes, too_large

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

_BYTES_PER_EDGE, _BYTES_PER_NODE = 16, 24  # the columns `source` and `target`; roles and spaces


@dataclass(frozen=True)
class EdgeList:
    """Edges between nodes 0..n-1, sorted by source and then target; parallel edges are kept.

    `csr` are the rows, with weights: float64 per edge, NaN on structural edges. The columns `source` and `target`
    (int64) are made when they are first read. `inputs` and `outputs` are node ids, `space` the index of the space of
    each node.
    """

    csr: ExplicitCsr
    inputs: np.ndarray
    outputs: np.ndarray
    space: np.ndarray

    @property
    def num_nodes(self) -> int:
        return self.csr.num_nodes

    @property
    def num_edges(self) -> int:
        return self.csr.num_edges

    @cached_property
    def source(self) -> np.ndarray:
        return self.csr.sources()

    @cached_property
    def target(self) -> np.ndarray:
        return self.csr.indices.astype(np.int64)

    @property
    def weight(self) -> np.ndarray:
        assert self.csr.weights is not None
        return self.csr.weights


def edge_list_bytes(graph: StructureGraph) -> int:
    """Memory that building the edge list takes with all its columns, in bytes."""
    return csr_bytes(graph, "float64") + _BYTES_PER_EDGE * graph.num_edges + _BYTES_PER_NODE * graph.num_nodes


def build_edge_list(graph: StructureGraph, max_memory: int | None = None) -> EdgeList:
    """Write every edge down. Raises CapacityError, with the estimate, when it does not fit."""
    if max_memory is not None:
        need = edge_list_bytes(graph)
        if need > max_memory:
            raise CapacityError(too_large(graph, need, max_memory))
    csr = build_csr(graph, "float64")
    return EdgeList(csr, graph.input_nodes(), graph.output_nodes(), _space_of_nodes(graph))


def _space_of_nodes(graph: StructureGraph) -> np.ndarray:
    per_space = [graph.nodes_in(block) for block in graph.spaces]
    return np.repeat(np.array([block.index for block in graph.spaces], dtype=np.int64), per_space)
