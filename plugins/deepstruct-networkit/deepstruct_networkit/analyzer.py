"""The analyzer `networkit`: the explicit graph as NetworKit holds it, for graphs of many millions of edges."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.analyzers.view import ExplicitView
from deepstruct.metrics.base import AnalysisContext

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

BYTES_PER_EDGE = 100
BYTES_PER_NODE = 200
SEED = 0


class NetworkitView(ExplicitView):
    """The explicit graph and its NetworKit twins: nodes 0..n-1, parallel edges collapsed, no self-loops."""

    def __init__(self, graph: StructureGraph, context: AnalysisContext, max_operations: float, estimate: int) -> None:
        super().__init__(graph, context, max_operations, estimate)
        import networkit

        # One thread and one seed: the same numbers on every machine.
        networkit.setNumberOfThreads(1)
        networkit.setSeed(SEED, False)

    @cached_property
    def simple(self) -> Any:
        """Undirected `networkit.Graph`."""
        return self._build(*self.undirected_pairs, directed=False)

    @cached_property
    def directed(self) -> Any:
        """Directed `networkit.Graph`."""
        return self._build(*self.directed_pairs, directed=True)

    @cached_property
    def largest_component(self) -> Any:
        """The largest connected component of `simple`, its nodes numbered anew."""
        import networkit

        return networkit.components.ConnectedComponents.extractLargestConnectedComponent(self.simple, True)

    def _build(self, source: Any, target: Any, directed: bool) -> Any:
        import networkit

        graph = networkit.Graph(self.num_nodes, weighted=False, directed=directed)
        pairs = np.asarray(source, np.uint64), np.asarray(target, np.uint64)
        graph.addEdges(pairs)
        return graph


class NetworkitAnalyzer:
    """Metrics of the explicit graph by NetworKit; `auto` asks it after igraph and networkx."""

    name = "networkit"
    priority = 40
    max_operations = 1e12

    def available(self) -> str | None:
        """None, or that NetworKit is missing."""
        return None if find_spec("networkit") else "the package networkit is not installed: pip install networkit"

    def estimate(self, graph: StructureGraph) -> int:
        """Bytes of the edge list and of the two NetworKit graphs."""
        size = graph.explicit_bytes() + BYTES_PER_EDGE * int(graph.num_edges) + BYTES_PER_NODE * int(graph.num_nodes)
        return int(size)

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> NetworkitView:
        """The view. Raises CapacityError when the edge list does not fit `context.max_memory`."""
        limit = float(context.settings.get("max_operations", self.max_operations))
        return NetworkitView(graph, context, limit, self.estimate(graph))
