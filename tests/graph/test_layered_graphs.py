"""Layers of graphs, kept up to date; labelled graphs; files."""

from __future__ import annotations

import copy
import pickle

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.errors import InputError, StructureError
from deepstruct.graph import CachedLayeredGraph, LabeledDAG, LayeredGraph, build_layer_index, uniform_proportions


def longest(graph: nx.DiGraph) -> dict[int, int]:
    """The definition, by networkx: longest path into each vertex."""
    found: dict[int, int] = {}
    for v in nx.topological_sort(graph):
        found[v] = max((found[u] + 1 for u in graph.pred[v]), default=0)
    return found


def assert_layers(graph: CachedLayeredGraph) -> None:
    wanted = longest(nx.DiGraph(graph))
    assert {v: graph.get_layer(v) for v in graph} == wanted
    assert graph.layers == sorted(set(wanted.values()))
    for layer in graph.layers:
        assert graph.get_vertices(layer) == [v for v in graph if wanted[v] == layer]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_path_of_100000_nodes(backward: bool) -> None:
    n = 100_000
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((i + 1, i) if backward else (i, i + 1) for i in range(n - 1))
    index, layers = build_layer_index(graph)
    assert index == {v: n - 1 - v if backward else v for v in range(n)}
    assert layers[n - 1] == [0 if backward else n - 1]


def test_known_layers_are_kept() -> None:
    graph = nx.DiGraph([("a", "b"), ("b", "c")])
    index, layers = build_layer_index(graph, {"b": 5})
    assert index == {"a": 0, "b": 5, "c": 6}
    assert layers == {0: ["a"], 5: ["b"], 6: ["c"]}


def test_cycles_and_undirected_graphs_are_named() -> None:
    with pytest.raises(StructureError, match=r"cycle: (3 -> 1 -> 2|1 -> 2 -> 3|2 -> 3 -> 1) -> \d"):
        build_layer_index(nx.DiGraph([(0, 1), (1, 2), (2, 3), (3, 1), (3, 4)]))
    with pytest.raises(StructureError, match="directed"):
        build_layer_index(nx.path_graph(3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(0, 7)), max_size=40))
def test_layers_follow_every_mutation(steps: list[tuple[int, int, int]]) -> None:
    graph = CachedLayeredGraph()
    for kind, a, b in steps:
        u, v = min(a, b), max(a, b)
        if kind == 0:
            graph.add_node(u)
        elif kind == 1:
            graph.add_nodes_from([u, v])
        elif kind in (2, 3, 4) and u < v:
            graph.add_edge(u, v)
        elif kind == 5 and u < v:
            graph.add_edges_from([(u, v)])
        elif kind == 6 and graph.has_edge(u, v):
            graph.remove_edge(u, v)
        elif kind == 7:
            graph.remove_edges_from([(u, v)])
        elif kind == 8 and u in graph:
            graph.remove_node(u)
        elif kind == 9:
            graph.remove_nodes_from([v])
        assert_layers(graph)


def test_further_mutations() -> None:
    graph = CachedLayeredGraph()
    graph.add_path([0, 1, 2, 3])
    assert graph.num_layers == 4
    nx.add_path(graph, [3, 4])
    assert graph.last_layer == 4
    graph.add_star([0, 5, 6])
    graph.add_weighted_edges_from([(4, 7, 0.5)])
    assert graph.get_layer(7) == 5
    graph.update(edges=[(7, 8)], nodes=[9])
    assert (graph.get_layer(8), graph.get_layer(9)) == (6, 0)
    graph.clear_edges()
    assert graph.layers == [0]
    graph.clear()
    assert (graph.num_layers, graph.first_layer, graph.last_layer, graph.first_layer_size) == (0, None, None, 0)
    graph.add_cycle([0, 1, 2])
    with pytest.raises(StructureError, match="cycle"):
        _ = graph.layers
    graph.remove_edge(2, 0)
    assert graph.num_layers == 3


def test_views_and_copies_have_layers_of_their_own() -> None:
    graph = CachedLayeredGraph([(0, 1), (1, 2)])
    view = graph.subgraph([1, 2])
    assert view.get_layer(2) == 1
    graph.remove_edge(1, 2)
    assert view.get_layer(2) == 0
    for twin in (graph.copy(), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        twin.add_edge(1, 2)
        assert (twin.get_layer(2), graph.get_layer(2)) == (2, 0)
    assert CachedLayeredGraph([(0, 1)]).reverse().get_layer(0) == 1


def test_connections_between_layers() -> None:
    graph = CachedLayeredGraph([(0, 2), (1, 2), (2, 3), (0, 3)])
    assert graph.layer_connection_size(0, 1) == graph.layer_connection_size(1, 0) == 2
    assert graph.layer_connected(0, 2)
    assert graph.layer_connection_size(0, 2) == 1
    with pytest.raises(StructureError, match="different layers"):
        graph.layer_connected(1, 1)
    with pytest.raises(StructureError, match="no layer 9"):
        graph.layer_connected(0, 9)
    with pytest.raises(StructureError, match="no vertex 'x'"):
        graph.get_layer("x")


def test_files_keep_edges_and_attributes(tmp_path) -> None:
    graph = CachedLayeredGraph([("b", "a"), ("a", "c")], title="a theme")
    graph.nodes["a"].update(bias=0.1, table={"0": 0.25})
    graph.edges["b", "a"]["weight"] = 1 / 3
    graph.save(tmp_path / "graph.graphml")
    again = LayeredGraph.load(tmp_path / "graph.graphml")
    assert type(again) is CachedLayeredGraph
    assert set(again.edges) == {(0, 1), (1, 2)}
    assert again.nodes[1] == {"bias": 0.1, "table": {"0": 0.25}}
    assert again.edges[0, 1] == {"weight": 1 / 3}
    assert again.graph["title"] == "a theme"
    with pytest.raises(InputError, match="GraphML"):
        LayeredGraph.load(tmp_path / "missing.graphml")
    (tmp_path / "broken.graphml").write_text("<graphml")
    with pytest.raises(InputError, match="GraphML"):
        LayeredGraph.load(tmp_path / "broken.graphml")
    assert set(LayeredGraph.load_from(nx.path_graph(3)).edges) == {(0, 1), (1, 2)}


def test_labelled_graphs() -> None:
    graph = LabeledDAG()
    assert graph.add_vertices(3, layer=0).tolist() == [0, 1, 2]
    assert graph.add_vertex(layer=1) == 3
    graph.add_edge(0, 3)
    graph.add_edge(3, "new")  # a vertex that is missing gets the next number, one layer up
    assert graph.get_layer(4) == 2
    graph.add_edges_from([(1, 3), (2, 3)], target_layer=1)
    assert (graph.num_layers, graph.first_layer_size, graph.last_layer_size) == (3, 3, 1)
    assert graph.index_in_layer(2) == 2
    with pytest.raises(StructureError, match="lower to a higher"):
        graph.add_edges_from([(0, 5), (3, 1)])
    assert len(graph) == 5  # nothing was added
    graph.remove_node(4)
    assert graph.layers == [0, 1]
    assert graph.add_vertex(1) == 5  # numbers are not used twice
    twin = graph.copy()
    assert set(twin.edges) == set(graph.edges)
    assert twin.get_layer(5) == 1
    assert copy.deepcopy(graph).get_layer(5) == 1
    with pytest.raises(StructureError):
        graph.add_vertices(0)


def test_labelled_graphs_are_put_on_top_of_each_other() -> None:
    def block(rows: int, cols: int) -> LabeledDAG:
        graph = LabeledDAG()
        u, v = graph.add_vertices(rows, 0), graph.add_vertices(cols, 1)
        graph.add_edges_from((a, b) for a in u for b in v)
        return graph

    graph = LabeledDAG()
    graph.add_vertices(4)
    graph.append(block(4, 3))
    graph.append(block(3, 2))
    assert [graph.get_layer_size(k) for k in graph.layers] == [4, 3, 2]
    assert graph.number_of_edges() == 4 * 3 + 3 * 2
    assert set(graph.pred[7]) == {4, 5, 6}
    with pytest.raises(StructureError, match=r"2 vertices, .* 3"):
        graph.append(block(3, 2))


def test_uniform_proportions() -> None:
    shares = uniform_proportions(nx.path_graph(20), seed=0)
    assert np.isclose(sum(shares.values()), 1)
    assert 0.5 / 20 < min(shares.values()) <= max(shares.values()) < 2 / 20
