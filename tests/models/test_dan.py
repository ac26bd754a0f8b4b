"""Networks over graphs: what they compute, training, files, copies, devices, compilation, bad input."""

from __future__ import annotations

import copy
import io
import time

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from deepstruct.errors import InputError, StructureError
from deepstruct.sparse import DeepCellDAN, MaskedDeepDAN, MaskedDeepFFN, maskable_layers, maskable_layers_with_name

WS = nx.watts_strogatz_graph(30, 4, 0.3, seed=2)


def cell(is_input: bool, in_degree: int, input_channel_size: int, **_: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(input_channel_size if is_input else in_degree, 1, 3, padding=1), nn.ReLU())


MODELS = {
    "ffn": (lambda: MaskedDeepFFN((2, 3), 4, [10, 8, 8], use_layer_norm=True), (5, 2, 3)),
    "separate": (lambda: MaskedDeepDAN((2, 3), 4, WS), (5, 2, 3)),
    "sum-norm": (lambda: MaskedDeepDAN(6, 4, WS, True, skips="sum", readout="sinks"), (5, 6)),
    "cells": (lambda: DeepCellDAN(4, 2, cell, nx.watts_strogatz_graph(6, 4, 0.3, seed=1)), (5, 2, 9, 9)),
}
each_model = pytest.mark.parametrize("name", list(MODELS))


def by_hand(model: MaskedDeepDAN, x: torch.Tensor) -> torch.Tensor:
    """The definition, vertex by vertex, from the graph with weights."""
    graph = model.to_graph(weights=True)
    value = {v: x[:, i] for i, v in enumerate(v for v in graph if graph.nodes[v]["role"] == "input")}
    hidden = sorted((v for v in graph if graph.nodes[v]["role"] == "hidden"), key=lambda v: graph.nodes[v]["layer"])
    layer_of = {v: graph.nodes[v]["layer"] for v in graph}
    for v in hidden:
        data = graph.nodes[v]
        sums: dict[int, torch.Tensor] = {}
        for u in graph.pred[v]:
            low = -1 if model.skips == "sum" else layer_of[u]
            sums[low] = sums.get(low, 0) + graph.edges[u, v]["weight"] * value[u]
        main = -1 if model.skips == "sum" else data["layer"] - 1
        zero = torch.zeros(len(x), dtype=x.dtype)
        out = (sums.pop(main, zero) + data["bias"]).relu()
        for low, bias in data.get("skip_bias", {}).items():
            out = out + (sums.pop(int(low) + 1, zero) + bias).relu()
        assert not sums
        value[v] = out
    outs = [v for v in graph if graph.nodes[v]["role"] == "output"]
    return torch.stack(
        [sum((graph.edges[u, v]["weight"] * value[u] for u in graph.pred[v]), torch.zeros(len(x), dtype=x.dtype))
         + graph.nodes[v]["bias"] for v in outs], 1)  # fmt: skip


@pytest.mark.parametrize("readout", ["last", "sinks"])
@pytest.mark.parametrize("skips", ["separate", "sum"])
def test_the_definition(skips: str, readout: str) -> None:
    model = MaskedDeepDAN(4, 3, WS, skips=skips, readout=readout, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
        model.hidden.mask[::5] = False
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(model(x), by_hand(model, x))
    values = model.activations(x)
    assert values.shape == (6, 30)
    torch.testing.assert_close(model.layer_out(values[:, model.reads.long()]), model(x))


def test_sinks_are_read_and_last_is_the_last_layer() -> None:
    graph = nx.DiGraph([(0, 1), (1, 2), (0, 3)])
    graph.add_node(4)
    assert MaskedDeepDAN(2, 1, graph).layer_out.in_features == 1
    model = MaskedDeepDAN(2, 1, graph, readout="sinks")
    assert sorted(model.vertices[i] for i in model.reads.tolist()) == [2, 3, 4]


def test_initial_weights() -> None:
    graph = nx.DiGraph([(u, v) for v in range(400, 700) for u in range(400) if (u * 7 + v) % 100 == 0])
    graph.add_nodes_from(range(700))
    dense = len([v for v in graph if not graph.in_degree(v)])
    torch.manual_seed(0)
    sparse = MaskedDeepDAN(2, 1, graph).hidden.weight.detach().abs()
    original = MaskedDeepDAN(2, 1, graph, init="original").hidden.weight.detach().abs()
    assert 0.45 < sparse.max() <= 0.5  # four edges into each vertex
    assert sparse.mean().item() == pytest.approx(0.25, rel=0.1)
    assert 0.9 / dense**0.5 < original.max() <= 1 / dense**0.5
    with pytest.raises(InputError, match="init="):
        MaskedDeepDAN(2, 1, graph, init="zero")


def test_masks_are_kept_by_optimizers_and_gradients() -> None:
    model = MaskedDeepDAN(6, 4, WS)
    mask = torch.rand(len(model.hidden.weight)) < 0.6
    model.hidden.mask = mask.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    before = model.hidden.weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        assert not model.hidden.weight.grad[~mask].any()
        optimizer.step()
    x = torch.randn(3, 6)
    out = model(x)
    assert (model.hidden.weight[~mask] != before[~mask]).any()  # weight decay moves what nobody reads
    model.apply_mask()
    assert torch.equal(model(x), out)
    assert not model.hidden.weight[~mask].any()
    model.recompute_mask()
    assert not (model.hidden.mask & ~mask).any()
    assert model.generate_structure().number_of_edges() == int(model.hidden.mask.sum())


@each_model
def test_training_lowers_the_loss(name: str) -> None:
    make, shape = MODELS[name]
    model = make()
    x, y = torch.randn(64, *shape[1:]), torch.randint(4, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


@each_model
def test_saving_and_copying(name: str) -> None:
    make, shape = MODELS[name]
    model, x = make().eval(), torch.randn(shape)
    for layer in maskable_layers(model):
        layer.mask = torch.rand(layer.mask.shape) < 0.7
    out = model(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = make().eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(x), out)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), out)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(x), out)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), out)


@each_model
def test_precision_and_devices(name: str) -> None:
    make, shape = MODELS[name]
    model = make().eval()
    out = model(torch.ones(shape))
    double = copy.deepcopy(model).double()
    torch.testing.assert_close(double(torch.ones(shape, dtype=torch.float64)).float(), out, rtol=1e-4, atol=1e-5)
    assert double.to("cpu")(torch.ones(shape, dtype=torch.float64)).dtype == torch.float64
    meta = copy.deepcopy(model).to("meta")
    assert meta(torch.ones(shape, device="meta")).shape == out.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(torch.ones(shape)).float(), out, rtol=0.1, atol=0.1)


@each_model
def test_compiles_without_graph_breaks(name: str) -> None:
    make, shape = MODELS[name]
    model, x = make(), torch.randn(shape)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    out = compiled(x)
    torch.testing.assert_close(out, model(x))
    out.square().sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters() if p.grad is not None])


@each_model
def test_reset_parameters(name: str) -> None:
    make, _ = MODELS[name]
    model = make()
    masks = {n: torch.rand(layer.mask.shape) < 0.5 for n, layer in maskable_layers_with_name(model)}
    for n, layer in maskable_layers_with_name(model):
        layer.mask = masks[n]
    before = [p.detach().clone() for p in model.parameters()]
    model.reset_parameters(keep_mask=True)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(layer.mask, masks[n]) for n, layer in maskable_layers_with_name(model))
    model.reset_parameters()
    assert all(layer.mask.all() for layer in maskable_layers(model))


def test_maskable_layers_of_nested_models() -> None:
    nested = nn.Sequential(nn.ModuleList([MaskedDeepDAN(3, 2, WS)]), nn.Sequential(MaskedDeepFFN(2, 2, [4])))
    names = [name for name, _ in maskable_layers_with_name(nested)]
    assert names == ["0.0.layer_first", "0.0.hidden", "0.0.layer_out", "1.0._layer_first", "1.0._layer_out"]
    from deepstruct.sparse import prunable_layers, prunable_layers_with_name

    with pytest.warns(DeprecationWarning, match="maskable_layers"):
        assert len(list(prunable_layers(nested))) == 5
    with pytest.warns(DeprecationWarning, match="maskable_layers_with_name"):
        assert [name for name, _ in prunable_layers_with_name(nested)] == names


def test_generate_structure_counts_what_is_there() -> None:
    ffn = MaskedDeepFFN(2, 1, [3, 2, 3])
    assert [len(ffn.generate_structure(i, o)) for i in (False, True) for o in (False, True)] == [8, 9, 10, 11]
    assert ffn.generate_structure(True, True).number_of_edges() == 6 + 6 + 6 + 3
    assert ffn.generate_structure(True, True).num_layers == 5
    with torch.no_grad():
        ffn._layers_hidden[0].mask[0, :] = False
    assert ffn.generate_structure().number_of_edges() == 9
    graph = nx.DiGraph([(0, 2), (1, 2), (2, 3), (0, 3)])
    dan = MaskedDeepDAN(4, 2, graph)
    assert [len(dan.generate_structure(i, o)) for i in (False, True) for o in (False, True)] == [4, 6, 8, 10]
    assert dan.generate_structure(True, True).number_of_edges() == 4 * 2 + 4 + 1 * 2
    assert nx.is_isomorphic(dan.generate_structure(), graph)
    assert set(dan.structure.edges) == set(graph.edges)


def test_large_graphs_build_fast() -> None:
    """Generous limits: this machine may be busy. The benchmark has the figures."""
    graph = nx.gnm_random_graph(5000, 100_000, seed=1)
    start = time.process_time()
    model = MaskedDeepDAN(20, 10, graph)
    assert time.process_time() - start < 1.5
    assert len(model.hidden.weight) == 100_000
    order = np.random.default_rng(0).permutation(5000).tolist()
    start = time.process_time()
    model = MaskedDeepDAN(20, 10, graph, order=order)
    assert time.process_time() - start < 2
    assert model(torch.randn(4, 20)).shape == (4, 10)
    ring = nx.watts_strogatz_graph(2000, 20, 0.01, seed=1)
    assert len(MaskedDeepDAN(20, 10, ring).hidden.weight) == 20_000


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MaskedDeepDAN(3, 2, nx.DiGraph([(0, 1), (1, 0)])), StructureError, "cycle"),
        (lambda: MaskedDeepDAN(3, 2, nx.DiGraph()), InputError, "empty"),
        (lambda: MaskedDeepDAN(3, 2, nx.Graph([(0, 0)])), InputError, "itself"),
        (lambda: MaskedDeepDAN(0, 2, WS), InputError, "size_input=0"),
        (lambda: MaskedDeepDAN((3, "x"), 2, WS), InputError, "size_input"),
        (lambda: MaskedDeepDAN(3, 2, WS, skips="both"), InputError, "separate, sum"),
        (lambda: MaskedDeepDAN(3, 2, WS, readout="all"), InputError, "last, sinks"),
        (lambda: MaskedDeepDAN(3, 2, WS)(torch.zeros(2, 4)), InputError, "3 features"),
        (lambda: MaskedDeepDAN(3, 2, WS)(torch.zeros(3)), InputError, "batch"),
        (lambda: MaskedDeepFFN(3, 2, []), InputError, "hidden_layers"),
        (lambda: MaskedDeepFFN(3, 2, [4, 0]), InputError, "hidden_layers=0"),
        (lambda: MaskedDeepFFN(3, 2, [4])(torch.zeros(2, 2, 2)), InputError, "3 features"),
        (lambda: DeepCellDAN(2, 1, cell, nx.DiGraph([(0, 1), (1, 0)])), StructureError, "cycle"),
        (lambda: DeepCellDAN(2, 1, lambda **_: 3, nx.path_graph(2)), InputError, "expected a module"),
        (lambda: DeepCellDAN(2, 1, cell, nx.path_graph(2))(torch.zeros(1, 2, 4, 4)), InputError, "height"),
        (
            lambda: DeepCellDAN(2, 1, lambda **_: nn.Identity(), nx.DiGraph([(0, 2), (1, 2)])).eval()(
                torch.zeros(1, 1, 4, 4)
            ),
            InputError,
            "vertex 2 gave shape",
        ),
    ],
)
def test_bad_input(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_masks_of_other_shapes_are_refused() -> None:
    model = MaskedDeepDAN(3, 2, WS)
    with pytest.raises(InputError, match="shape"):
        model.hidden.mask = torch.ones(3, dtype=torch.bool)


def test_isolated_vertices_are_units_of_layer_0() -> None:
    graph = nx.empty_graph(3)
    model = MaskedDeepDAN(2, 2, graph)
    assert model.layer_first.out_features == model.layer_out.in_features == 3
    assert model(torch.randn(4, 2)).shape == (4, 2)


def test_checkpoints_of_other_graphs_are_refused() -> None:
    state = MaskedDeepDAN(3, 2, nx.path_graph(5)).state_dict()
    with pytest.raises(InputError, match="build the model from the same graph"):
        MaskedDeepDAN(3, 2, nx.path_graph(6)).load_state_dict(state)
    broken = dict(state)
    broken["hidden.edges"] = state["hidden.edges"].flip(0)
    with pytest.raises(InputError, match="build the model from the same graph"):
        MaskedDeepDAN(3, 2, nx.path_graph(5)).load_state_dict(broken)
