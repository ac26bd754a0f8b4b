"""Reading graphs of any kind, orienting them, and the generators at hand."""

from __future__ import annotations

import igraph
import networkx as nx
import numpy as np
import pytest

from deepstruct.errors import CapacityError, InputError, StructureError
from deepstruct.graph import (
    barabasi_albert,
    erdos_renyi,
    expansion,
    grid,
    message_exchange_mask,
    newman_watts,
    orient,
    ramanujan_bipartite,
    random_regular_bipartite,
    random_wired,
    read_structure,
    relational_graph,
    stochastic_block,
    tree,
    watts_strogatz,
)

EDGES = [(0, 2), (1, 2), (2, 3), (0, 3)]
UNDIRECTED = nx.Graph()
UNDIRECTED.add_nodes_from(range(4))
UNDIRECTED.add_edges_from(EDGES)


def edges_of(structure) -> set[tuple]:
    names = structure.names
    return {(names[u], names[v]) for u, v in zip(structure.source, structure.target, strict=True)}


@pytest.mark.parametrize(
    "graph",
    [nx.DiGraph(EDGES), nx.MultiDiGraph([*EDGES, (0, 2)]), UNDIRECTED, EDGES, np.array(EDGES),
     igraph.Graph(n=4, edges=EDGES, directed=True), igraph.Graph(n=4, edges=EDGES)],
    ids=["digraph", "multi", "undirected", "list", "array", "igraph", "igraph-undirected"],
)  # fmt: skip
def test_all_kinds_of_graphs_are_read(graph) -> None:
    structure = read_structure(graph)
    assert edges_of(structure) == set(EDGES)
    assert dict(zip(structure.names, structure.layer.tolist(), strict=True)) == {0: 0, 1: 0, 2: 1, 3: 2}


def test_graphml_files_are_read(tmp_path) -> None:
    nx.write_graphml(UNDIRECTED, tmp_path / "g.graphml")
    assert edges_of(read_structure(str(tmp_path / "g.graphml"))) == set(EDGES)


def test_orders() -> None:
    star = nx.Graph([("a", "hub"), ("b", "hub"), ("hub", "c"), ("c", "d")])
    assert set(orient(star).edges) == {("a", "hub"), ("hub", "b"), ("hub", "c"), ("c", "d")}
    assert set(orient(star, "degree").edges) == {("hub", "a"), ("hub", "b"), ("hub", "c"), ("c", "d")}
    assert set(orient(star, "bfs").edges) == {("a", "hub"), ("hub", "b"), ("hub", "c"), ("c", "d")}
    assert set(orient(star, [*"dcba", "hub"]).edges) == {("d", "c"), ("c", "hub"), ("b", "hub"), ("a", "hub")}
    assert ("d", "c") in orient(star, lambda v: -ord(v[0])).edges
    cyclic = nx.DiGraph([(0, 1), (1, 2), (2, 0)])
    assert set(orient(cyclic).edges) == {(0, 1), (1, 2), (0, 2)}
    with pytest.raises(StructureError, match="cycle"):
        read_structure(cyclic)
    star.edges["a", "hub"]["weight"] = 3.0
    assert orient(star, "degree").edges["hub", "a"]["weight"] == 3.0


@pytest.mark.parametrize(
    ("graph", "message"),
    [(nx.DiGraph(), "empty"), ([], "empty"), (nx.Graph([(1, 1)]), "itself"), (3, "a structure is"),
     ([(1, 2, 3)], "a structure is")],
    ids=["no-vertex", "no-edge", "loop", "number", "triples"],
)  # fmt: skip
def test_what_is_no_graph_is_refused(graph, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_structure(graph)


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(InputError, match="order='up'"):
        orient(nx.path_graph(3), "up")
    with pytest.raises(InputError, match="lacks 1"):
        orient(nx.path_graph(3), [0, 1])
    with pytest.raises(StructureError, match="does not"):
        read_structure(nx.DiGraph([(0, 1)]), layers=[1, 1])


def test_generators_are_the_graphs_that_they_are_named_for() -> None:
    assert set(watts_strogatz(30, 4, 0.3, seed=1).edges) == {
        (min(e), max(e)) for e in nx.watts_strogatz_graph(30, 4, 0.3, seed=1).edges
    }
    assert newman_watts(30, 4, 0.5, seed=1).number_of_edges() >= 60
    assert barabasi_albert(30, 3, seed=1).number_of_edges() == 27 * 3
    assert erdos_renyi(40, 1.0).number_of_edges() == 40 * 39 // 2
    blocks = stochastic_block([5, 6], [[0, 1], [1, 0]], seed=0)
    assert set(blocks.edges) == {(u, v) for u in range(5) for v in range(5, 11)}
    assert [grid(3, 4).get_layer(v) for v in [(0, 0), (2, 3)]] == [0, 5]
    assert grid(3, 4).number_of_edges() == 2 * 4 + 3 * 3
    assert (tree(2, 3).num_layers, tree(2, 3).first_layer_size) == (4, 1)
    assert (tree(2, 3, inward=True).first_layer_size, tree(2, 3, inward=True).last_layer_size) == (8, 1)


@pytest.mark.parametrize("kind", ["watts_strogatz", "barabasi_albert", "erdos_renyi"])
def test_random_wired_stages_have_one_input_and_one_output(kind: str) -> None:
    stage = random_wired(32, kind, seed=3)
    assert len(stage) == 34
    assert [v for v in stage if stage.in_degree(v) == 0] == [0]
    assert [v for v in stage if stage.out_degree(v) == 0] == [33]


@pytest.mark.parametrize(("rows", "cols", "degree"), [(12, 8, 4), (7, 10, 3), (6, 6, 6), (40, 30, 3), (5, 4, 0)])
def test_regular_masks(rows: int, cols: int, degree: int) -> None:
    for seed in range(5):
        mask = random_regular_bipartite(rows, cols, degree, seed=seed)
        assert (mask.sum(1) == degree).all()
        assert mask.sum(0).max() - mask.sum(0).min() <= 1


def test_expansion() -> None:
    complete = expansion(np.ones((4, 6), dtype=bool))
    assert np.isclose(complete.first, np.sqrt(24))
    assert complete.second < 1e-9
    assert complete.ramanujan
    apart = expansion(np.kron(np.eye(2), np.ones((3, 3))).astype(bool))  # two components: no gap at all
    assert np.isclose(apart.second, apart.first)
    assert not apart.ramanujan
    mask = ramanujan_bipartite(80, 80, 5, seed=0)
    exact = np.linalg.svd(mask.astype(float), compute_uv=False)
    assert np.isclose(expansion(mask).second, exact[1])
    assert exact[1] <= 2 * np.sqrt(4)
    with pytest.raises(CapacityError, match="Ramanujan"):
        ramanujan_bipartite(64, 64, 1, seed=0, tries=2)


def test_relational_graphs() -> None:
    complete = relational_graph(16, 15, 0.0)
    assert nx.average_clustering(complete) == nx.average_shortest_path_length(complete) == 1
    assert message_exchange_mask(complete, 20, 33).all()
    ring = relational_graph(64, 8, 0.0)
    assert np.isclose(nx.average_clustering(ring), 9 / 14)
    assert round(nx.average_shortest_path_length(ring), 4) == 4.4444
    assert message_exchange_mask(ring, 512, 512).mean() == 0.140625
    rewired = relational_graph(64, 7.5, 0.4, seed=1)
    assert rewired.number_of_edges() == 240
    with pytest.raises(InputError):
        message_exchange_mask(ring, 10, 64)


@pytest.mark.parametrize(
    "make",
    [lambda: erdos_renyi(0, 0.5), lambda: erdos_renyi(5, 2), lambda: watts_strogatz(5, 9, 0.1),
     lambda: barabasi_albert(3, 3), lambda: stochastic_block([2], [[0.1, 0.2]]), lambda: grid(), lambda: tree(0, 1),
     lambda: random_wired(8, "lattice"), lambda: random_regular_bipartite(3, 3, 4), lambda: relational_graph(2, 2, 0)],
)  # fmt: skip
def test_bad_parameters(make) -> None:
    with pytest.raises(InputError):
        make()
