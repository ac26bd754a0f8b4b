"""Directed acyclic graphs whose vertices are numbered and put into layers by hand."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import networkx as nx
import numpy as np

from deepstruct.errors import StructureError
from deepstruct.graph.layered import LayeredGraph


class LabeledDAG(LayeredGraph):
    """Vertices are integers, counted up as they are added, each in a layer of its own choice.

    Edges go from a lower layer to a higher one, hence there are no cycles. A vertex that an edge names and
    the graph lacks is added under the next number, which need not be the one that was named.
    """

    def __init__(self, incoming_graph_data: Any = None, **attr: Any) -> None:
        self._layer_of: dict[Hashable, int] = {}
        self._members: dict[int, dict[Hashable, None]] = {}
        self._next = 0
        super().__init__(**attr)
        if incoming_graph_data is not None:
            source = nx.DiGraph(incoming_graph_data)
            for vertex in source.nodes:
                self._put(vertex, getattr(incoming_graph_data, "_layer_of", {}).get(vertex, 0))
            self.add_edges_from(source.edges(data=True))

    def _index(self) -> tuple[dict[Hashable, int], dict[int, list[Hashable]]]:
        return self._layer_of, {layer: list(members) for layer, members in self._members.items()}

    def get_layer(self, vertex: Hashable) -> int:
        try:
            return self._layer_of[vertex]
        except KeyError:
            raise StructureError(f"there is no vertex {vertex!r} in this graph") from None

    def get_vertices(self, layer: int) -> list[Hashable]:
        if layer not in self._members:
            raise StructureError(f"there is no layer {layer!r}: the graph has {sorted(self._members)}")
        return list(self._members[layer])

    def get_layer_size(self, layer: int) -> int:
        return len(self._members[layer]) if layer in self._members else len(self.get_vertices(layer))

    @property
    def layers(self) -> list[int]:
        return sorted(self._members)

    def index_in_layer(self, vertex: Hashable) -> int:
        """Position of a vertex among those of its layer."""
        return self.get_vertices(self.get_layer(vertex)).index(vertex)

    # -- adding

    def add_vertex(self, layer: int = 0) -> int:
        """A new vertex in a layer; returns its number."""
        return int(self.add_vertices(1, layer)[0])

    def add_vertices(self, num_vertices: int, layer: int = 0) -> np.ndarray:
        """New vertices in a layer; returns their numbers."""
        if num_vertices < 1 or layer < 0:
            raise StructureError(f"add at least one vertex to a layer from 0 on, not {num_vertices} to layer {layer}")
        numbers = np.arange(self._next, self._next + num_vertices)
        members = self._members.setdefault(int(layer), {})
        for number in numbers.tolist():
            members[number] = None
            self._layer_of[number] = int(layer)
        super().add_nodes_from(numbers.tolist())
        self._next += num_vertices
        return numbers

    def add_node(self, node_for_adding: Hashable = None, **attr: Any) -> int:
        """A new vertex in layer `layer` (0); the name given is not used, its number is returned."""
        return self.add_vertex(int(attr.get("layer", 0)))

    def add_nodes_from(self, nodes_for_adding: Sequence[Hashable] | Iterable[Hashable], **attr: Any) -> np.ndarray:
        """As many new vertices as are named, in layer `layer` (0); returns their numbers."""
        names = list(nodes_for_adding)
        return self.add_vertices(len(names), int(attr.get("layer", 0))) if names else np.arange(0)

    def add_edge(self, u_of_edge: Hashable, v_of_edge: Hashable, **attr: Any) -> None:
        """An edge; a vertex that is missing is made in `source_layer` (0) or `target_layer` (source's + 1).

        Raises StructureError, and changes nothing, unless the edge goes up.
        """
        self.add_edges_from([(u_of_edge, v_of_edge, attr)])

    def add_edges_from(self, ebunch_to_add: Iterable[Any], **attr: Any) -> None:
        """Edges, as `add_edge`; a missing vertex that is named twice is made once."""
        placed: dict[Hashable, int] = {}  # by name: the layers of vertices that are still to be made
        edges: list[tuple[Hashable, Hashable, dict[str, Any]]] = []
        for edge in ebunch_to_add:
            u, v, data = edge[0], edge[1], {**attr, **(edge[2] if len(edge) > 2 else {})}
            low = self._layer_of.get(u, placed.get(u))
            if low is None:
                low = placed[u] = int(data.get("source_layer", 0))
            high = self._layer_of.get(v, placed.get(v))
            if high is None:
                high = placed[v] = int(data.get("target_layer", low + 1))
            if low >= high or low < 0:
                raise StructureError(
                    f"edges go from a lower to a higher layer: {u!r} is in layer {low}, {v!r} in layer {high}"
                )
            edges.append((u, v, data))
        made = {name: self.add_vertex(layer) for name, layer in placed.items()}
        super().add_edges_from((made.get(u, u), made.get(v, v), data) for u, v, data in edges)

    def append(self, other: LabeledDAG) -> None:
        """Put another graph on top: its first layer is identified with the last one here, in order.

        Raises StructureError when those two differ in size.
        """
        if not len(self) or not len(other) or other.num_layers < 2:
            raise StructureError("only a graph of at least two layers can be appended, to one of at least one")
        if self.last_layer_size != other.first_layer_size:
            raise StructureError(
                f"the last layer has {self.last_layer_size} vertices, the first layer of what is appended "
                f"{other.first_layer_size}"
            )
        first, last = other.first_layer, self.last_layer
        assert first is not None
        assert last is not None
        own = dict(zip(other.get_vertices(first), self.get_vertices(last), strict=True))
        for layer in other.layers[1:]:
            numbers = self.add_vertices(other.get_layer_size(layer), last + layer - first).tolist()
            own.update(zip(other.get_vertices(layer), numbers, strict=True))
        LayeredGraph.add_edges_from(self, ((own[u], own[v], data) for u, v, data in other.edges(data=True)))

    # -- removing, copying

    def remove_node(self, n: Hashable) -> None:
        super().remove_node(n)
        self._drop(n)

    def remove_nodes_from(self, nodes: Iterable[Hashable]) -> None:
        named = [n for n in nodes if n in self._layer_of]
        super().remove_nodes_from(named)
        for n in named:
            self._drop(n)

    def clear(self) -> None:
        super().clear()
        self._layer_of.clear()
        self._members.clear()
        self._next = 0

    def copy(self, as_view: bool = False) -> LabeledDAG:
        """The same vertices, layers, edges and attributes; views are not made of such graphs."""
        if as_view:
            raise StructureError("a LabeledDAG has no views: take copy(), or nx.DiGraph(graph).copy(as_view=True)")
        new = LabeledDAG(**self.graph)
        for vertex, data in self.nodes(data=True):
            new._put(vertex, self._layer_of[vertex])
            new.nodes[vertex].update(data)
        nx.DiGraph.add_edges_from(new, ((u, v, dict(data)) for u, v, data in self.edges(data=True)))
        new._next = self._next
        return new

    def _put(self, vertex: Hashable, layer: int) -> None:
        """A vertex under its own name."""
        nx.DiGraph.add_node(self, vertex)
        self._layer_of[vertex] = layer
        self._members.setdefault(layer, {})[vertex] = None
        if isinstance(vertex, (int, np.integer)):
            self._next = max(self._next, int(vertex) + 1)

    def _drop(self, vertex: Hashable) -> None:
        members = self._members[self._layer_of.pop(vertex)]
        del members[vertex]
        self._members = {layer: kept for layer, kept in self._members.items() if kept}
