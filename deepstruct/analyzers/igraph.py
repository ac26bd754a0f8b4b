"""The igraph analyzer: the explicit graph, in igraph where it has the algorithm, in numpy elsewhere."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.analyzers.passes import (
    Adjacency,
    DagSweep,
    adjacency,
    breadth_first,
    topological_levels,
)
from deepstruct.analyzers.view import ExplicitView, Ints
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext, Analyzer
from deepstruct.plugin.markers import hookimpl
from deepstruct.structure.export import column_pairs, igraph_of

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

BYTES_PER_EDGE = 140  # measured peak of the standard panel: two simple igraphs, pairs, rows both ways, sweep order
BYTES_PER_NODE = 400


class IgraphView(ExplicitView):
    """The explicit graph as igraph objects and as compressed rows."""

    @cached_property
    def multigraph(self) -> Any:
        """Directed `igraph.Graph` with parallel edges and self-loops, edges in the edge list's order.

        Attribute "weight" holds the weights, NaN on structural edges.
        """
        graph = igraph_of(self.csr)
        graph.es["weight"] = self.edges.weight.tolist()
        return graph

    @cached_property
    def simple_directed(self) -> Any:
        """Directed `igraph.Graph`: parallel edges collapsed, self-loops dropped."""
        return self._build(*self.directed_pairs, directed=True)

    @cached_property
    def simple(self) -> Any:
        """Undirected `igraph.Graph`: direction dropped, parallel edges collapsed, no self-loops."""
        return self._build(*self.undirected_pairs, directed=False)

    def _build(self, source: Ints, target: Ints, directed: bool) -> Any:
        import igraph

        return igraph.Graph(n=self.num_nodes, edges=column_pairs(source, target), directed=directed)

    @cached_property
    def out_rows(self) -> Adjacency:
        return Adjacency(self.csr.indptr, self.csr.indices)

    @cached_property
    def in_rows(self) -> Adjacency:
        rows = self.csr.transposed()
        return Adjacency(rows.indptr, rows.indices)

    @cached_property
    def in_degree(self) -> Ints:
        return np.bincount(self.csr.indices, minlength=self.num_nodes)

    @cached_property
    def out_degree(self) -> Ints:
        return self.csr.out_degree

    @cached_property
    def from_inputs(self) -> Ints:
        """Fewest edges from an input to each node, -1 where none leads."""
        return breadth_first(self.out_rows, self.inputs)

    @cached_property
    def to_outputs(self) -> Ints:
        """Fewest edges from each node to an output, -1 where it reaches none."""
        return breadth_first(self.in_rows, self.outputs)

    @cached_property
    def sweep(self) -> DagSweep:
        """Passes along the DAG. Raises MetricError when the graph has a cycle."""
        level = topological_levels(self.out_rows)
        if level is None:
            raise MetricError("the graph has a cycle: paths from inputs to outputs are not finitely many")
        return DagSweep(self.in_rows, level)

    @cached_property
    def sweep_back(self) -> DagSweep:
        """Passes against the edges of the DAG. Raises MetricError when the graph has a cycle."""
        level = topological_levels(self.in_rows)
        if level is None:
            raise MetricError("the graph has a cycle: paths from inputs to outputs are not finitely many")
        return DagSweep(self.out_rows, level)

    @cached_property
    def longest_from_inputs(self) -> npt.NDArray[np.float64]:
        """Most edges on a path from an input to each node, -inf where none leads."""
        return self.sweep.longest(self.inputs, self.num_nodes)


    def effective_among(self, kept: npt.NDArray[np.bool_]) -> tuple[int, int]:
        """Effective nodes and edges of the graph without the nodes that are not kept (boolean per node)."""
        stays = kept[self.edges.source] & kept[self.edges.target]
        source, target, n = self.edges.source[stays], self.edges.target[stays], self.num_nodes
        ahead = breadth_first(adjacency(n, source, target), self.inputs[kept[self.inputs]]) >= 0
        back = breadth_first(adjacency(n, target, source), self.outputs[kept[self.outputs]]) >= 0
        alive = ahead & back
        return int(np.count_nonzero(alive)), int(np.count_nonzero(alive[source] & alive[target]))


class IgraphAnalyzer:
    """Metrics of the explicit graph at the speed of C."""

    name = "igraph"
    priority = 20
    max_operations = 5e9

    def available(self) -> str | None:
        return None if find_spec("igraph") else "the package igraph is not installed: pip install igraph"

    def estimate(self, graph: StructureGraph) -> int:
        """Bytes of the edge list and of all that the standard panel builds from it."""
        return (
            graph.explicit_bytes()
            + BYTES_PER_EDGE * int(graph.num_edges)
            + BYTES_PER_NODE * int(graph.num_nodes)
        )

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> IgraphView:
        """The view. Raises CapacityError when the edge list does not fit `context.max_memory`."""
        limit = float(context.settings.get("max_operations", self.max_operations))
        return IgraphView(graph, context, limit, self.estimate(graph))


@hookimpl
def deepstruct_analyzers() -> list[Analyzer]:
    """The igraph analyzer."""
    return [IgraphAnalyzer()]
