"""The networkx analyzer: the reference, written in the plainest way that networkx allows."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from deepstruct.analyzers.view import ExplicitView
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext, Analyzer
from deepstruct.plugin.markers import hookimpl

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

BYTES_PER_EDGE = 1300  # measured peak of the standard panel: three graphs of 640, 240, 240, and work space
BYTES_PER_NODE = 1500


class NetworkxView(ExplicitView):
    """The explicit graph as networkx objects; node labels are the node ids."""

    @cached_property
    def multigraph(self) -> Any:
        """`networkx.MultiDiGraph`; weight edges have the attribute "weight", structural edges none."""
        import networkx as nx

        graph = nx.MultiDiGraph()
        graph.add_nodes_from(range(self.num_nodes))
        edges = self.edges
        columns = zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True)
        graph.add_edges_from((u, v, {} if w != w else {"weight": w}) for u, v, w in columns)
        return graph

    @cached_property
    def simple_directed(self) -> Any:
        """`networkx.DiGraph`: parallel edges collapsed, self-loops dropped."""
        import networkx as nx

        graph = nx.DiGraph()
        graph.add_nodes_from(range(self.num_nodes))
        graph.add_edges_from((u, v) for u, v in self.multigraph.edges() if u != v)
        return graph

    @cached_property
    def simple(self) -> Any:
        """`networkx.Graph`: direction dropped, parallel edges collapsed, no self-loops."""
        return self.simple_directed.to_undirected()

    @cached_property
    def input_nodes(self) -> set[int]:
        return set(self.inputs.tolist())

    @cached_property
    def output_nodes(self) -> set[int]:
        return set(self.outputs.tolist())

    @cached_property
    def from_inputs(self) -> dict[int, int]:
        """Fewest edges from an input to each node that an input reaches."""
        return _layers(self.multigraph, self.input_nodes)

    @cached_property
    def to_outputs(self) -> dict[int, int]:
        """Fewest edges from each node that reaches an output to the nearest one."""
        return _layers(self.multigraph.reverse(copy=False), self.output_nodes)

    @cached_property
    def topological_order(self) -> list[int]:
        """Nodes, sources of edges first. Raises MetricError when the graph has a cycle."""
        import networkx as nx

        try:
            return list(nx.topological_sort(self.multigraph))
        except nx.NetworkXUnfeasible as error:
            raise MetricError(
                "the graph has a cycle: paths from inputs to outputs are not finitely many"
            ) from error

    @cached_property
    def longest_from_inputs(self) -> dict[int, int]:
        """Most edges on a path from an input to each node that an input reaches."""
        longest = dict.fromkeys(self.input_nodes, 0)
        for node in self.topological_order:
            if node in longest:
                for _, target in self.multigraph.out_edges(node):
                    longest[target] = max(longest.get(target, 0), longest[node] + 1)
        return longest


class NetworkxAnalyzer:
    """Metrics of the explicit graph, for compatibility and as the reference of the others."""

    name = "networkx"
    priority = 30
    max_operations = 2e8

    def available(self) -> str | None:
        return (
            None if find_spec("networkx") else "the package networkx is not installed: pip install networkx"
        )

    def estimate(self, graph: StructureGraph) -> int:
        """Bytes of the edge list and of the three networkx graphs that the standard panel builds."""
        return (
            graph.explicit_bytes()
            + BYTES_PER_EDGE * int(graph.num_edges)
            + BYTES_PER_NODE * int(graph.num_nodes)
        )

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> NetworkxView:
        """The view. Raises CapacityError when the edge list does not fit `context.max_memory`."""
        limit = float(context.settings.get("max_operations", self.max_operations))
        return NetworkxView(graph, context, limit, self.estimate(graph))


def _layers(graph: Any, seeds: set[int]) -> dict[int, int]:
    import networkx as nx

    return {node: step for step, layer in enumerate(nx.bfs_layers(graph, seeds)) for node in layer}


@hookimpl
def deepstruct_analyzers() -> list[Analyzer]:
    """The networkx analyzer."""
    return [NetworkxAnalyzer()]
