"""Extraction gives back the graph that a model was built from."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deepstruct
from deepstruct.sparse import MaskedDeepDAN


def hidden_graph(model: MaskedDeepDAN) -> nx.DiGraph:
    """Edges between the units of the hidden vertices, by node number of the extracted graph."""
    graph = deepstruct.extract(model, order="zeroth")
    full = nx.DiGraph()
    csr = graph.edge_list()
    full.add_nodes_from(range(csr.num_nodes))
    full.add_edges_from(zip(csr.source.tolist(), csr.target.tolist(), strict=True))
    outer = set(graph.input_nodes().tolist()) | set(graph.output_nodes().tolist())
    return full.subgraph(set(full) - outer).copy()


def random_dag(n: int, p: float, seed: int) -> nx.DiGraph:
    rng = np.random.default_rng(seed)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((u, v) for u in range(n) for v in range(u + 1, n) if rng.random() < p)
    return graph


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 14), p=st.floats(0, 1), seed=st.integers(0, 2**31 - 1), norm=st.booleans())
def test_sum_is_isomorphic(n: int, p: float, seed: int, norm: bool) -> None:
    structure = random_dag(n, p, seed)
    model = MaskedDeepDAN(3, 2, structure, norm, skips="sum", readout="sinks")
    assert nx.is_isomorphic(hidden_graph(model), structure)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 14), p=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_separate_has_the_graph_as_quotient(n: int, p: float, seed: int) -> None:
    structure = random_dag(n, p, seed)
    model = MaskedDeepDAN(3, 2, structure, readout="sinks")
    found = hidden_graph(model)
    layout = model.hidden.layout
    # A unit that only feeds one unit and through a sum of rows belongs to that vertex: rows of vertices with several.
    counts = np.bincount(layout.target, minlength=n)
    rows_of_many = int(counts[counts > 1].sum())
    assert len(found) == n + rows_of_many
    merged = nx.DiGraph()
    merged.add_nodes_from(range(n))
    owner = vertex_of_units(model)
    merged.add_edges_from((owner[u], owner[v]) for u, v in found.edges if owner[u] != owner[v])
    names = dict(enumerate(model.vertices))
    assert set(nx.relabel_nodes(merged, names).edges) == set(structure.edges)


def vertex_of_units(model: MaskedDeepDAN) -> dict[int, int]:
    """Vertex of each hidden unit: units come layer by layer, main rows, further rows, then sums."""
    layout, start = model.hidden.layout, model.hidden.structure.layer_start
    layer = model.hidden.structure.layer
    counts = np.bincount(layout.target, minlength=len(layer))
    order: list[int] = list(range(int(start[1])))
    for k in range(1, len(start) - 1):
        here = layer[layout.target] == k
        order += layout.target[here & layout.main].tolist()
        order += layout.target[here & ~layout.main].tolist()
        order += [v for v in range(int(start[k]), int(start[k + 1])) if counts[v] > 1]
    first = model.size_input
    return {first + i: vertex for i, vertex in enumerate(order)}


def test_masked_edges_are_no_edges() -> None:
    structure = random_dag(12, 0.5, 3)
    model = MaskedDeepDAN(3, 2, structure, skips="sum", readout="sinks")
    with torch.no_grad():
        model.hidden.mask[::3] = False
    kept = model.hidden.edges[:, model.hidden.mask].T.tolist()
    graph = hidden_graph(model)
    assert graph.number_of_edges() == len(kept)
    wanted = nx.DiGraph(kept)
    wanted.add_nodes_from(range(12))
    assert nx.is_isomorphic(graph, wanted)


@pytest.mark.parametrize("skips", ["sum", "separate"])
def test_weights_are_counted_once(skips: str) -> None:
    model = MaskedDeepDAN(3, 2, random_dag(15, 0.4, 1), skips=skips, readout="sinks")
    graph = deepstruct.extract(model, order="zeroth")
    weights = sum(layer.weight.numel() for layer in (model.layer_first, model.hidden, model.layer_out))
    assert graph.num_weights == graph.num_weight_edges == weights


@pytest.mark.parametrize("skips", ["sum", "separate"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_the_jacobian_lies_within(skips: str, norm: bool) -> None:
    """What an output depends on, by derivatives at many points, is what it reaches in the graph."""
    torch.manual_seed(1)
    model = MaskedDeepDAN(4, 3, random_dag(12, 0.3, 5), norm, skips=skips, readout="sinks", dtype=torch.float64)
    with torch.no_grad():
        model.layer_first.mask[:, ::2] = torch.rand(model.layer_first.mask[:, ::2].shape) < 0.5
        model.layer_out.mask[:] = torch.rand(model.layer_out.mask.shape) < 0.8
    structure = deepstruct.extract(model, order="zeroth", normalization="stats")
    graph, outputs = structure.to_networkx(), structure.output_nodes().tolist()
    inputs = structure.input_nodes().tolist()
    assert (len(inputs), len(outputs)) == (4, 3)
    touched = torch.zeros(3, 4, dtype=torch.bool)
    for x in 5 * torch.randn(40, 4, dtype=torch.float64):
        touched |= torch.autograd.functional.jacobian(lambda t: model(t[None])[0], x) != 0
    reach = torch.tensor([[o in nx.descendants(graph, i) for i in inputs] for o in outputs])
    assert touched.any()
    assert not (touched & ~reach).any()


def test_analyze_needs_no_example_input() -> None:
    report = deepstruct.analyze(MaskedDeepDAN(5, 2, nx.path_graph(4), skips="sum"), orders="zeroth")
    assert report.graphs["zeroth"].num_nodes == 5 + 4 + 2
