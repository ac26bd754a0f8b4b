"""Directed acyclic graphs that know their layers, as networkx graphs."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from deepstruct.errors import InputError, StructureError
from deepstruct.graph.layers import build_layer_index

_JSON = "json:"


class LayeredGraph(nx.DiGraph):
    """A directed graph whose vertices lie in layers; what a layer is, subclasses say.

    Every networkx function takes it. Vertices of a layer are in the order in which they were added.
    """

    def save(self, path: str | Path) -> None:
        """Write GraphML, vertices numbered from 0 in their order; attributes that GraphML lacks go as JSON."""
        numbers = {vertex: i for i, vertex in enumerate(self.nodes)}
        plain = nx.DiGraph(**{str(k): _written(v) for k, v in self.graph.items()})
        for vertex, data in self.nodes(data=True):
            plain.add_node(numbers[vertex], **{str(k): _written(v) for k, v in data.items()})
        for u, v, data in self.edges(data=True):
            plain.add_edge(numbers[u], numbers[v], **{str(k): _written(d) for k, d in data.items()})
        nx.write_graphml(plain, str(path))

    @staticmethod
    def load(path: str | Path) -> CachedLayeredGraph:
        """Read a GraphML file; see `load_from`. Raises InputError for a file that is none."""
        try:
            graph = nx.read_graphml(str(path))
        except (OSError, SyntaxError, nx.NetworkXError, KeyError, ValueError) as error:
            raise InputError(f"{path} cannot be read as GraphML: {error}") from error
        return LayeredGraph.load_from(graph)

    @staticmethod
    def load_from(graph: nx.Graph) -> CachedLayeredGraph:
        """A copy of any networkx graph, its vertices numbered from 0 in their order, with all attributes.

        Undirected edges go from the earlier to the later vertex.
        """
        numbers = {vertex: i for i, vertex in enumerate(graph.nodes)}
        result = CachedLayeredGraph(**{k: _read(v) for k, v in graph.graph.items()})
        result.add_nodes_from(
            (numbers[v], {k: _read(d) for k, d in data.items()}) for v, data in graph.nodes(data=True)
        )
        for u, v, data in graph.edges(data=True):
            a, b = numbers[u], numbers[v]
            if not graph.is_directed() and a > b:
                a, b = b, a
            result.add_edge(a, b, **{k: _read(d) for k, d in data.items()})
        return result

    def _fill(self, count: int, source: np.ndarray, target: np.ndarray) -> None:
        """Vertices 0 to count - 1 and many edges at once: a tenth of the time of add_edges_from."""
        nx.DiGraph.add_nodes_from(self, range(count))  # those that are there stay as they are
        order = np.argsort(source, kind="stable")
        starts = np.searchsorted(source[order], np.arange(count + 1))
        heads = target[order].tolist()
        successors, predecessors = self._succ, self._pred
        for u in range(count):
            row = {v: {} for v in heads[starts[u] : starts[u + 1]]}  # type: dict[int, dict[str, Any]]
            successors[u].update(row)
            for v, data in row.items():
                predecessors[v][u] = data
        self._touch()

    def _touch(self) -> None:
        """Called after every change."""

    # -- layers

    def _index(self) -> tuple[dict[Hashable, int], dict[int, list[Hashable]]]:
        raise NotImplementedError(f"{type(self).__name__} has no layers: use CachedLayeredGraph or LabeledDAG")

    @property
    def layers(self) -> list[int]:
        """The numbers of the layers that have vertices, ascending."""
        return sorted(self._index()[1])

    @property
    def num_layers(self) -> int:
        return len(self._index()[1])

    @property
    def first_layer(self) -> int | None:
        """Number of the lowest layer; None for an empty graph."""
        return min(self._index()[1], default=None)

    @property
    def last_layer(self) -> int | None:
        """Number of the highest layer; None for an empty graph."""
        return max(self._index()[1], default=None)

    @property
    def first_layer_size(self) -> int:
        return self._size_of(self.first_layer)

    @property
    def last_layer_size(self) -> int:
        return self._size_of(self.last_layer)

    def _size_of(self, layer: int | None) -> int:
        return 0 if layer is None else self.get_layer_size(layer)

    def get_layer(self, vertex: Hashable) -> int:
        """The layer of a vertex."""
        try:
            return self._index()[0][vertex]
        except KeyError:
            raise StructureError(f"there is no vertex {vertex!r} in this graph") from None

    def get_vertices(self, layer: int) -> list[Hashable]:
        """The vertices of a layer, in their order."""
        try:
            return list(self._index()[1][layer])
        except KeyError:
            raise StructureError(f"there is no layer {layer!r}: the graph has {self.layers}") from None

    def get_layer_size(self, layer: int) -> int:
        """Number of vertices of a layer."""
        return len(self.get_vertices(layer))

    def layer_connection_size(self, layer_index1: int, layer_index2: int) -> int:
        """Number of edges between two layers; an edge goes up, so their order does not matter."""
        if layer_index1 == layer_index2:
            raise StructureError(f"layer {layer_index1} has no edges inside: name two different layers")
        low, high = sorted((layer_index1, layer_index2))
        layer_of = self._index()[0]
        self.get_vertices(high)  # an unknown layer is an error, not zero
        return sum(layer_of[v] == high for u in self.get_vertices(low) for v in self._succ[u])

    def layer_connected(self, layer_index1: int, layer_index2: int) -> bool:
        """Whether there is an edge between two layers."""
        return self.layer_connection_size(layer_index1, layer_index2) > 0


class CachedLayeredGraph(LayeredGraph):
    """Layers by longest paths: a vertex lies one above its highest predecessor, without one in layer 0.

    They are computed when asked for and kept until the graph changes, by whichever of its methods.
    Asking for the layers of a graph with a cycle raises StructureError.
    """

    _cached: tuple[dict[Hashable, int], dict[int, list[Hashable]]] | None = None

    def _index(self) -> tuple[dict[Hashable, int], dict[int, list[Hashable]]]:
        if "_graph" in self.__dict__:  # a view: its graph may change without a word
            return build_layer_index(self)
        if self._cached is None:
            self._cached = build_layer_index(self)
        return self._cached

    def _touch(self) -> None:
        self._cached = None

    def add_node(self, node_for_adding: Hashable, **attr: Any) -> None:
        super().add_node(node_for_adding, **attr)
        self._touch()

    def add_nodes_from(self, nodes_for_adding: Iterable[Any], **attr: Any) -> None:
        self._touch()  # before, too: an iterable may fail half way
        super().add_nodes_from(nodes_for_adding, **attr)
        self._touch()

    def remove_node(self, n: Hashable) -> None:
        super().remove_node(n)
        self._touch()

    def remove_nodes_from(self, nodes: Iterable[Hashable]) -> None:
        self._touch()
        super().remove_nodes_from(nodes)
        self._touch()

    def add_edge(self, u_of_edge: Hashable, v_of_edge: Hashable, **attr: Any) -> None:
        super().add_edge(u_of_edge, v_of_edge, **attr)
        self._touch()

    def add_edges_from(self, ebunch_to_add: Iterable[Any], **attr: Any) -> None:
        self._touch()
        super().add_edges_from(ebunch_to_add, **attr)
        self._touch()

    def remove_edge(self, u: Hashable, v: Hashable) -> None:
        super().remove_edge(u, v)
        self._touch()

    def remove_edges_from(self, ebunch: Iterable[Any]) -> None:
        self._touch()
        super().remove_edges_from(ebunch)
        self._touch()

    def clear(self) -> None:
        super().clear()
        self._touch()

    def clear_edges(self) -> None:
        super().clear_edges()
        self._touch()

    def add_path(self, nodes: Iterable[Hashable], **attr: Any) -> None:
        """Edges from each vertex to the next one."""
        nx.add_path(self, nodes, **attr)

    def add_star(self, nodes: Iterable[Hashable], **attr: Any) -> None:
        """Edges from the first vertex to all others."""
        nx.add_star(self, nodes, **attr)

    def add_cycle(self, nodes: Iterable[Hashable], **attr: Any) -> None:
        """A cycle of edges; with it the graph has no layers until an edge of it is removed."""
        nx.add_cycle(self, nodes, **attr)


def _written(value: Any) -> Any:
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    return _JSON + json.dumps(value)


def _read(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_JSON):
        return json.loads(value[len(_JSON) :])
    return value
