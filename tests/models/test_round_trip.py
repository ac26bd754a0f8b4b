"""From a model to its graph with weights and back: equal outputs, also after pruning."""

from __future__ import annotations

import igraph
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.errors import InputError
from deepstruct.sparse import MaskedDeepDAN, MaskedDeepFFN, maskable_layers


def scramble(model: torch.nn.Module, density: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.6)
        for layer in maskable_layers(model):
            layer.mask = torch.rand(layer.mask.shape) < density


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12), p=st.floats(0, 1), seed=st.integers(0, 2**31 - 1), norm=st.booleans(),
    skips=st.sampled_from(["separate", "sum"]), readout=st.sampled_from(["last", "sinks"]),
    density=st.sampled_from([1.0, 0.7, 0.2]),
)  # fmt: skip
def test_networks_over_graphs(
    n: int, p: float, seed: int, norm: bool, skips: str, readout: str, density: float
) -> None:
    torch.manual_seed(seed)
    graph = nx.gnp_random_graph(n, p, seed=seed)
    model = MaskedDeepDAN(3, 2, graph, norm, skips=skips, readout=readout, dtype=torch.float64)
    scramble(model, density)
    again = MaskedDeepDAN.from_graph(model.to_graph(weights=True), dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(again(x), model(x), rtol=1e-12, atol=1e-12)
    assert nx.utils.graphs_equal(again.generate_structure(True, True), model.generate_structure(True, True))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), norm=st.booleans(), seed=st.integers(0, 2**31 - 1),
    density=st.sampled_from([1.0, 0.5, 0.1]),
)  # fmt: skip
def test_feed_forward_networks(sizes: list[int], norm: bool, seed: int, density: float) -> None:
    torch.manual_seed(seed)
    model = MaskedDeepFFN(3, 2, sizes, norm, dtype=torch.float64)
    scramble(model, density)
    again = MaskedDeepFFN.from_graph(model.to_graph(weights=True), dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(again(x), model(x), rtol=1e-12, atol=1e-12)


def test_through_a_file(tmp_path) -> None:
    model = MaskedDeepDAN(3, 2, nx.gnp_random_graph(10, 0.4, seed=1), True)
    scramble(model, 0.8)
    model.to_graph(weights=True).save(tmp_path / "model.graphml")
    again = MaskedDeepDAN.from_graph(tmp_path / "model.graphml")
    x = torch.randn(4, 3)
    torch.testing.assert_close(again(x), model(x), rtol=1e-6, atol=1e-6)


def test_a_bare_structure_promises_edges() -> None:
    model = MaskedDeepDAN(3, 2, nx.gnp_random_graph(10, 0.4, seed=1), skips="sum")
    scramble(model, 0.6)
    bare = model.to_graph()
    assert "weight" not in next(iter(bare.edges(data=True)))[2]
    assert nx.utils.graphs_equal(
        MaskedDeepDAN.from_graph(bare).generate_structure(True, True), model.generate_structure(True, True)
    )
    # The constructor takes the hidden part of a graph with roles, and keeps its layers.
    hidden = MaskedDeepDAN(7, 5, bare)
    assert (hidden.size_input, hidden.size_output) == (7, 5)
    assert hidden.hidden.layers.tolist() == model.hidden.layers.tolist()
    assert nx.is_isomorphic(hidden.generate_structure(), model.generate_structure())


def test_feed_forward_networks_become_networks_over_graphs() -> None:
    """Their graph has no skips: both kinds of skips are the same."""
    model = MaskedDeepFFN(3, 2, [5, 4, 4], dtype=torch.float64)
    scramble(model, 0.7)
    graph = model.to_graph(weights=True)
    x = torch.randn(4, 3, dtype=torch.float64)
    for skips in ("separate", "sum"):
        graph.graph["skips"] = skips
        torch.testing.assert_close(MaskedDeepDAN.from_graph(graph, dtype=torch.float64)(x), model(x))


@pytest.mark.parametrize("skips", ["separate", "sum"])
def test_pruned_structures_make_smaller_models(skips: str) -> None:
    model = MaskedDeepDAN(3, 2, nx.gnp_random_graph(20, 0.4, seed=1), skips=skips, readout="sinks")
    with torch.no_grad():
        order = model.hidden.weight.abs().argsort()
        model.hidden.mask[order[: len(order) // 2]] = False
    smaller = MaskedDeepDAN(3, 2, model.generate_structure(), skips=skips)
    assert len(smaller.hidden.weight) == int(model.hidden.mask.sum())


def test_from_igraph() -> None:
    edges = [(0, 1), (1, 2), (0, 2), (3, 2)]
    torch.manual_seed(0)
    a = MaskedDeepDAN(3, 2, igraph.Graph(n=4, edges=edges, directed=True))
    torch.manual_seed(0)
    b = MaskedDeepDAN(3, 2, _digraph(4, edges))
    x = torch.randn(2, 3)
    assert torch.equal(a(x), b(x))


def _digraph(n: int, edges: list[tuple[int, int]]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges)
    return graph


def test_graphs_that_are_no_models() -> None:
    with pytest.raises(InputError, match="no roles"):
        MaskedDeepDAN.from_graph(nx.path_graph(3))
    graph = MaskedDeepDAN(3, 2, nx.path_graph(4)).to_graph(weights=True)
    u, v = next(iter(graph.edges))
    del graph.edges[u, v]["weight"]
    with pytest.raises(InputError, match="all of them, or none"):
        MaskedDeepDAN.from_graph(graph)
    graph.edges[u, v]["weight"] = 1.0
    del graph.nodes[4]["bias"]
    with pytest.raises(InputError, match="bias"):
        MaskedDeepDAN.from_graph(graph)
    skip = MaskedDeepDAN(3, 2, nx.complete_graph(3), skips="sum").to_graph()
    with pytest.raises(InputError, match="leaves out a layer"):
        MaskedDeepFFN.from_graph(skip)
    inside = nx.DiGraph()
    inside.add_nodes_from(range(3), role="hidden", layer=np.int64(1))
    with pytest.raises(InputError, match="0 inputs"):
        MaskedDeepDAN.from_graph(inside)
