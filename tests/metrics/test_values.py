"""Metrics of small graphs against values worked out by hand or known from theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from deepstruct.errors import CapacityError, MetricError

ANALYZERS = ("igraph", "networkx")
pytestmark = pytest.mark.parametrize("analyzer", ANALYZERS)


@pytest.fixture
def mlp432(layered: Any) -> Any:
    return layered([np.ones((3, 4)), np.ones((2, 3))])


@pytest.fixture
def pruned(layered: Any) -> Any:
    return layered([[[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], [[1, 0, 1], [0, 0, 1]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nodes", 9),
        ("edges", 18),
        ("weight_edges", 18),
        ("structural_edges", 0),
        ("parallel_edges", 0),
        ("self_loops", 0),
        ("sources", 4),
        ("outputs", 2),
        ("density", 0.25),
        ("in_degree_mean", 2.0),
        ("in_degree_max", 4),
        ("in_degree_variance", (4 * 4 + 3 * 4 + 2 * 1) / 9),
        ("out_degree_max", 3),
        # degrees in: four 0, three 4, two 3
        ("in_degree_entropy", -sum(p * math.log(p) for p in (4 / 9, 3 / 9, 2 / 9))),
        ("strength_max", 6.0),
        ("strength_mean", 36 / 9),
        ("effective_nodes", 9),
        ("effective_edges", 18),
        ("path_count", 24),
        ("path_count_log10", math.log10(24)),
        ("longest_path", 2),
        ("shortest_path", 2),
        ("weakly_connected_components", 1),
        ("largest_component", 9),
        ("bridges", 0),
        ("articulation_points", 0),
        ("core_number_mean", 3.0),
        ("core_number_max", 3),
        ("min_vertex_cut", 2),
        ("diameter", 2),
        ("average_path_length", 1.5),
        ("global_efficiency", (18 + 18 / 2) / 36),
        ("triangles", 0),
        ("butterflies", 45),
        ("average_clustering", 0.0),
        ("transitivity", 0.0),
        ("assortativity", -1.0),  # every edge joins a node of degree 3 with one of degree 6
        ("betweenness_max", 8 / 3),
        ("betweenness_mean", 8 / 9),
    ],
)
def test_dense_perceptron(mlp432: Any, measure: Any, analyzer: str, name: str, expected: float) -> None:
    value = measure(mlp432, name, analyzer)
    assert value == pytest.approx(expected, rel=1e-12)
    assert type(value) is type(expected)


def test_node_values_of_the_dense_perceptron(mlp432: Any, measure: Any, analyzer: str) -> None:
    assert measure(mlp432, "in_degree", analyzer).tolist() == [0] * 4 + [4] * 3 + [3] * 2
    assert measure(mlp432, "core_number", analyzer).tolist() == [3] * 9
    assert measure(mlp432, "betweenness", analyzer) == pytest.approx([0] * 4 + [8 / 3] * 3 + [0] * 2)
    assert measure(mlp432, "depth", analyzer).tolist() == [0] * 4 + [1] * 3 + [2] * 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edges", 6),
        ("effective_edges", 3),
        ("effective_nodes", 4),
        ("path_count", 2),
        ("dead_in", 1),
        ("dead_out", 1),
        ("isolated", 0),
        ("weakly_connected_components", 3),
    ],
)
def test_pruned_perceptron(pruned: Any, measure: Any, analyzer: str, name: str, expected: int) -> None:
    assert measure(pruned, name, analyzer) == expected


def test_bottleneck(layered: Any, measure: Any, analyzer: str) -> None:
    graph = layered([np.ones((1, 4)), np.ones((4, 1))])
    names = ("bridges", "articulation_points", "min_vertex_cut")
    assert [measure(graph, name, analyzer) for name in names] == [8, 1, 1]


def test_ring_lattice(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(16, [(node, (node + step) % 16, 1.0) for node in range(16) for step in (1, 2)])
    assert measure(graph, "average_clustering", analyzer) == pytest.approx(0.5)
    assert measure(graph, "average_path_length", analyzer) == pytest.approx(2.4)
    with pytest.raises(MetricError, match="one degree"):
        measure(graph, "assortativity", analyzer)


def test_residual_block(plain: Any, measure: Any, analyzer: str) -> None:
    # y = x + W2 relu(W1 x), widths 3-2-3, the sum merged into y
    up = [(i, 3 + h, 1.0) for i in range(3) for h in range(2)]
    down = [(3 + h, 5 + o, 1.0) for h in range(2) for o in range(3)]
    graph = plain(8, [*up, *down, *((i, 5 + i, None) for i in range(3))], range(3), range(5, 8))
    assert [measure(graph, name, analyzer) for name in ("nodes", "edges", "path_count")] == [8, 15, 21]
    assert measure(graph, "structural_edges", analyzer) == 3
    assert measure(graph, "shortest_path", analyzer) == 1
    assert measure(graph, "longest_path", analyzer) == 2


def test_two_blocks(layered: Any, measure: Any, analyzer: str) -> None:
    graph = layered([np.kron(np.eye(2), np.ones((3, 3)))])
    graph.edges.space[:] = [0, 0, 0, 1, 1, 1] * 2  # the partition into the two blocks
    assert measure(graph, "weakly_connected_components", analyzer) == 2
    assert measure(graph, "modularity_of_layers", analyzer) == pytest.approx(0.5)
    assert measure(graph, "modularity", analyzer) == pytest.approx(0.5)
    assert measure(graph, "communities", analyzer) == 2


def test_parallel_edges_are_paths_of_their_own(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(3, [(0, 1, 2.0), (0, 1, None), (0, 1, -1.0), (1, 2, 1.0)], [0], [2])
    assert measure(graph, "path_count", analyzer) == 3
    assert measure(graph, "parallel_edges", analyzer) == 2
    assert measure(graph, "strength", analyzer).tolist() == [3.0, 4.0, 1.0]
    assert measure(graph, "bridges", analyzer) == 2  # parallel edges count as one


def test_outputs_that_feed_others_and_inputs_that_are_fed(plain: Any, measure: Any, analyzer: str) -> None:
    # 0 -> 1 -> 2 -> 3; inputs 0 and 1; outputs 1 and 3: paths 1, 01, 123, 0123
    graph = plain(4, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0)], [0, 1], [1, 3])
    assert measure(graph, "path_count", analyzer) == 4
    assert measure(graph, "shortest_path", analyzer) == 0
    assert measure(graph, "longest_path", analyzer) == 3
    assert measure(graph, "min_vertex_cut", analyzer) == 1


def test_path_counts_stay_exact_beyond_machine_integers(layered: Any, measure: Any, analyzer: str) -> None:
    graph = layered([np.ones((7, 7))] * 400)  # 7^401 paths: more than a float64 can hold, too
    assert measure(graph, "path_count", analyzer) == 7**401
    assert measure(graph, "path_count_log10", analyzer) == pytest.approx(401 * math.log10(7))


@pytest.mark.parametrize("depth", [20, 21, 22, 23, 24])
def test_path_counts_near_the_limit_of_int64(layered: Any, measure: Any, analyzer: str, depth: int) -> None:
    graph = layered([np.ones((7, 7))] * depth)
    assert measure(graph, "path_count", analyzer) == 7 ** (depth + 1)


def test_a_cycle_has_no_path_count(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(3, [(0, 1, 1.0), (1, 0, 1.0), (1, 2, 1.0)], [0], [2])
    for name in ("path_count", "path_count_log10", "longest_path", "depth"):
        with pytest.raises(MetricError, match="the graph has a cycle"):
            measure(graph, name, analyzer)
    assert measure(graph, "shortest_path", analyzer) == 2
    assert measure(graph, "effective_edges", analyzer) == 3
    assert measure(plain(1, [(0, 0, 1.0)], [0], [0]), "self_loops", analyzer) == 1
    with pytest.raises(MetricError, match="the graph has a cycle"):
        measure(plain(1, [(0, 0, 1.0)], [0], [0]), "path_count", analyzer)


def test_no_path_at_all(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(3, [(0, 1, 1.0)], [0], [2])
    assert measure(graph, "path_count", analyzer) == 0
    assert measure(graph, "effective_nodes", analyzer) == 0
    assert measure(graph, "min_vertex_cut", analyzer) == 0
    for name in ("path_count_log10", "longest_path", "shortest_path"):
        with pytest.raises(MetricError, match="no path leads"):
            measure(graph, name, analyzer)


def test_the_graph_without_nodes(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(0, [])
    for name in ("nodes", "edges", "path_count", "weakly_connected_components", "largest_component"):
        assert measure(graph, name, analyzer) == 0
    for name in ("in_degree_mean", "strength_max", "average_clustering", "diameter", "core_number_max"):
        with pytest.raises(MetricError, match="no nodes"):
            measure(graph, name, analyzer)
    assert measure(graph, "betweenness", analyzer).shape == (0,)


def test_one_node(plain: Any, measure: Any, analyzer: str) -> None:
    graph = plain(1, [], [0], [0])
    for name, expected in {"density": 0.0, "global_efficiency": 0.0, "diameter": 0, "path_count": 1}.items():
        assert measure(graph, name, analyzer) == expected
    with pytest.raises(MetricError, match="joined by an edge"):
        measure(graph, "average_path_length", analyzer)


def test_the_diameter_is_that_of_the_largest_component(plain: Any, measure: Any, analyzer: str) -> None:
    star = [(0, leaf, 1.0) for leaf in range(1, 6)]
    path = [(6, 7, 1.0), (7, 8, 1.0), (8, 9, 1.0)]
    assert measure(plain(10, [*star, *path]), "diameter", analyzer) == 2
    # two components of four nodes, a path and a star: the larger of 3 and 2
    assert (
        measure(
            plain(8, [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), *((4, k, 1.0) for k in (5, 6, 7))]),
            "diameter",
            analyzer,
        )
        == 3
    )


@pytest.mark.parametrize("name", ["butterflies", "triangles", "average_clustering", "transitivity"])
def test_work_on_pairs_of_neighbors_is_limited(mlp432: Any, measure: Any, analyzer: str, name: str) -> None:
    steps = 4 * 9 + 3 * 36 + 2 * 9
    assert measure(mlp432, name, analyzer, max_operations=steps) is not None
    with pytest.raises(CapacityError, match="max_operations"):
        measure(mlp432, name, analyzer, max_operations=steps - 1)


def test_louvain_is_repeatable_and_leaves_the_generators_alone(
    plain: Any, measure: Any, analyzer: str
) -> None:
    import random

    rng = np.random.default_rng(3)
    pairs = rng.integers(0, 60, (200, 2)).tolist()
    graph = plain(60, [(u, v, 1.0) for u, v in pairs])
    random.seed(5)
    expected = random.random()
    random.seed(5)
    values = {measure(graph, "modularity", analyzer) for _ in range(5)}
    assert len(values) == 1
    assert random.random() == expected


def test_room_for_the_flow_is_checked(mlp432: Any, measure: Any, analyzer: str) -> None:
    from deepstruct.analyzers.igraph import IgraphAnalyzer
    from deepstruct.analyzers.networkx import NetworkxAnalyzer
    from deepstruct.metrics.base import AnalysisContext
    from deepstruct.metrics.connectivity import min_vertex_cut_igraph, min_vertex_cut_networkx

    host: Any = {"igraph": IgraphAnalyzer(), "networkx": NetworkxAnalyzer()}[analyzer]
    cut = {"igraph": min_vertex_cut_igraph, "networkx": min_vertex_cut_networkx}[analyzer]
    view = host.prepare(mlp432, AnalysisContext(max_memory=host.estimate(mlp432) + 100))
    with pytest.raises(CapacityError, match=r"the minimum vertex cut needs about .* MiB beside"):
        cut(view)
