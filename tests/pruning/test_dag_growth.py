"""Edges of a network over a graph move: the graph stays acyclic, and everything that belongs to an edge moves along."""

from __future__ import annotations

import copy

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_nets import train

from deepstruct import graph as graphs
from deepstruct import pruning as P
from deepstruct.errors import InputError
from deepstruct.sparse import MaskedDeepDAN

SKIPS = ["sum", "separate"]


def dan(skips="sum", norm=False, vertices=12, seed=1, dtype=torch.float64):
    graph = graphs.erdos_renyi(vertices, 0.3, seed=seed)
    model = MaskedDeepDAN(5, 3, graph, norm, skips=skips, readout="sinks", dtype=dtype)
    model.hidden.grows = True
    return model


def absent(model):
    """(2, n): pairs from lower to higher layers that are no edge, by two loops."""
    layers, n = model.hidden.layers.tolist(), model.hidden.num_vertices
    there = {(u, v) for u, v in model.hidden.edges.T.tolist()}
    found = [(u, v) for v in range(n) for u in range(n) if layers[u] < layers[v] and (u, v) not in there]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2).T


def by_edge(model, values):
    return {(u, v): x for (u, v), x in zip(model.hidden.edges.T.tolist(), values.tolist(), strict=True)}


def by_row(model, values):
    return dict(zip(model.hidden._row_keys().tolist(), values.tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(
    vertices=st.integers(1, 14), seed=st.integers(0, 10**6), skips=st.sampled_from(SKIPS), norm=st.booleans(),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
def test_what_belongs_to_an_edge_moves_with_it(vertices, seed, skips, norm, shares):
    torch.manual_seed(seed)
    model, x = dan(skips, norm, vertices, seed), torch.randn(4, 5, dtype=torch.float64)
    hidden = model.hidden
    hidden.mask = torch.rand(len(hidden.weight)) < 0.9
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, torch.randint(3, (4,)), steps=2)
    state = optimizer.state[hidden.weight]
    parts = {"weight": hidden.weight, "mask": hidden.mask, "grad": hidden.weight.grad, "momentum": state["exp_avg"]}
    before = {name: by_edge(model, part.detach()) for name, part in parts.items()}
    rows = {n: by_row(model, p.detach())
            for n, p in (("bias", hidden.bias), ("momentum", optimizer.state[hidden.bias]["exp_avg_sq"]))}  # fmt: skip
    weight, bias, steps = hidden.weight, hidden.bias, float(state["step"])

    drop = torch.rand(len(weight)) < shares[0]
    gone = {tuple(e) for e in hidden.edges.T[drop].tolist()}
    free = torch.cat([absent(model), hidden.edges[:, drop]], 1)  # what goes may come back, from zero
    grow = free[:, torch.rand(free.shape[1]) < shares[1]]
    grow = grow[:, torch.randperm(grow.shape[1])]
    hidden.update_structure(drop, grow, optimizer)

    assert hidden.weight is weight
    assert hidden.bias is bias
    new = {tuple(e) for e in grow.T.tolist()}
    edges = {tuple(e) for e in hidden.edges.T.tolist()}
    assert edges == (set(before["weight"]) - gone) | new
    graph = nx.DiGraph(sorted(edges))
    assert nx.is_directed_acyclic_graph(graph)
    state = optimizer.state[hidden.weight]
    assert float(state["step"]) == steps
    parts = {"weight": weight, "mask": hidden.mask, "grad": weight.grad, "momentum": state["exp_avg"]}
    for name, part in parts.items():
        for edge, value in by_edge(model, part.detach()).items():
            assert value == ((name == "mask") if edge in new else before[name][edge]), (name, edge)
    for name, part in (("bias", bias), ("momentum", optimizer.state[bias]["exp_avg_sq"])):
        after = by_row(model, part.detach())
        assert set(rows[name]) <= set(after)
        assert all(value == rows[name].get(key, 0) for key, value in after.items()), name
    # the same network, built anew from its graph
    twin = MaskedDeepDAN.from_graph(model.to_graph(weights=True), dtype=torch.float64)
    torch.testing.assert_close(model(x), twin(x))
    train(model, optimizer, x, torch.randint(3, (4,)), steps=1)  # and the optimizer goes on


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("skips", SKIPS)
def test_new_edges_change_nothing_at_first(skips, norm):
    model, x = dan(skips, norm), torch.randn(6, 5, dtype=torch.float64)
    before = model(x)
    model.hidden.update_structure(grow=absent(model))
    assert absent(model).numel() == 0
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("skips", SKIPS)
def test_gradients_of_absent_edges(skips, norm):
    """They are those that the edge has once it is there with weight zero."""
    model, x = dan(skips, norm), torch.randn(6, 5, dtype=torch.float64)
    model.hidden.mask = torch.rand(len(model.hidden.weight)) < 0.8
    with torch.no_grad():  # units are awake, so that there is much to compare
        model.layer_first.bias.fill_(1)
        model.hidden.bias.fill_(1)
    full = copy.deepcopy(model)
    full.hidden.update_structure(~full.hidden.mask, None)
    full.hidden.update_structure(grow=absent(full))
    wanted = model(x).square().sum()
    (target,) = P.find_targets(model, only="hidden").values()
    assert target.gradient() is None
    target.watch(True)
    loss = model(x).square().sum()
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    full(x).square().sum().backward()
    by_pair = by_edge(full, full.hidden.weight.grad)
    places = [tuple(e) for e in target.places.edges(torch.ones(target.shape, dtype=torch.bool)).T.tolist()]
    expected = torch.tensor([by_pair[p] for p in places], dtype=torch.float64)
    torch.testing.assert_close(target.gradient(), expected)
    if skips == "sum":  # a separate sum that is not there has a bias of zero, where relu has no slope
        assert int((expected != 0).sum()) > len(model.hidden.weight)
    assert by_edge(model, model.hidden.weight.grad) == pytest.approx(
        {e: by_pair[e] * m for e, m in by_edge(model, model.hidden.mask).items()}
    )
    target.watch(False)
    assert target.gradient() is None


@pytest.mark.parametrize("grow", ["random", "gradient", "paths", "snip"])
@pytest.mark.parametrize("optim", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)],
                         ids=["adam", "sgd"])  # fmt: skip
@pytest.mark.parametrize("skips", SKIPS)
def test_dynamic_sparse_training(skips, grow, optim):
    """Edges move while the network learns: their number stays, the graph stays acyclic, the layers stay."""
    if grow == "paths" and skips == "separate":
        pytest.skip("a vertex has several sums there, whose weights are no one stretch: Network refuses")
    model, x, y = dan(skips, dtype=torch.float32), torch.randn(16, 5), torch.randint(3, (16,))

    def loss(net):
        return torch.nn.functional.cross_entropy(net(x), y)

    scores = {"random": P.Random(), "gradient": P.Gradient(), "paths": P.PathCentrality(), "snip": P.Snip(loss)}
    optimizer = optim(model.parameters(), 0.02)
    layers, edges, start = model.hidden.layers.tolist(), model.hidden.edges.clone(), float(loss(model))
    count = edges.shape[1]
    plan = P.Rewire(None, P.Magnitude(), scores[grow], P.constant(0.3), every=3, only="hidden.weight")
    with plan.attach(model, optimizer, example_input=torch.zeros(1, 5)) as session:
        for _ in range(30):
            train(model, optimizer, x, y, steps=1)
            session.step()
            assert len(model.hidden.weight) == count
            assert all(layers[u] < layers[v] for u, v in model.hidden.edges.T.tolist())
            assert nx.is_directed_acyclic_graph(model.generate_structure())
    assert session.density == count / len(P.get_masks(model)["hidden.weight"])
    assert not torch.equal(model.hidden.edges, edges)
    assert sum(event.grown for event in session.history) == sum(event.dropped for event in session.history) > 0
    assert float(loss(model)) < start
    fresh = dan(skips, dtype=torch.float32)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh(x), model(x))


def test_the_largest_gradients_grow():
    model, x = dan(), torch.randn(8, 5, dtype=torch.float64)
    (target,) = P.find_targets(model, only="hidden").values()
    plan = P.Rewire(None, P.Magnitude(), P.Gradient(), P.constant(0.4), every=1, only="hidden", regrow=False)
    with plan.attach(model) as session:
        model(x).square().sum().backward()
        before, gradient = target.mask(), model.hidden._watch.seen.abs()
        weight, count = target.weight().abs(), int(target.mask().sum())
        session.step()
    after, moved = target.mask(), int(0.4 * count)
    assert moved > 1
    grown, dropped = after & ~before, before & ~after
    assert int(grown.sum()) == int(dropped.sum()) == moved
    assert float(gradient[grown].min()) >= float(gradient[~before & ~after].max())
    assert float(weight[dropped].max()) <= float(weight[before & after].min())
    assert not bool(target.weight()[grown].any())


def test_a_density_over_all_pairs():
    model = dan(vertices=30)
    pairs = len(model.hidden.weight) + absent(model).shape[1]
    with P.SET(0.1, only="hidden").attach(model):
        assert len(model.hidden.weight) == round(0.1 * pairs)
        assert bool(model.hidden.mask.all())
    model.hidden.grows = False
    assert len(P.get_masks(model)["hidden.weight"]) == round(0.1 * pairs)


@pytest.mark.parametrize("skips", SKIPS)
def test_what_cannot_grow_is_refused_and_changes_nothing(skips):
    model, x = dan(skips), torch.randn(3, 5, dtype=torch.float64)
    hidden, before = model.hidden, model(x)
    u, v = hidden.edges[:, 0].tolist()
    other = torch.optim.SGD(model.layer_out.parameters(), 0.1)
    for drop, grow, optimizer, message in (
        (None, [[v], [u]], (), "could close a cycle"),
        (None, [[0], [0]], (), "could close a cycle"),
        (None, [[u], [v]], (), "exist already"),
        (None, [[0], [99]], (), "outside 0 to 11"),
        ([999], None, (), "outside"),
        ([0], None, other, "does not hold"),
    ):
        with pytest.raises(InputError, match=message):
            hidden.update_structure(
                None if drop is None else torch.tensor(drop), None if grow is None else torch.tensor(grow), optimizer
            )
    with pytest.raises(InputError, match="integers"):
        hidden.update_structure(grow=torch.zeros(2, 3))
    assert torch.equal(model(x), before)
