"""Models made of graphs, and of masked layers, are pruned like any other."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from pruning_nets import small, train
from torch import nn

from deepstruct import graph as graphs
from deepstruct import pruning as P
from deepstruct.sparse import MaskedDeepDAN, MaskedDeepFFN, MaskedLinearLayer


def dan(skips="sum"):
    return MaskedDeepDAN(6, 3, graphs.erdos_renyi(14, 0.4, seed=1), skips=skips, readout="sinks")


@pytest.mark.parametrize("skips", ["sum", "separate"])
def test_networks_of_graphs(skips) -> None:
    model, x = dan(skips), torch.randn(5, 6)
    names = list(P.find_targets(model))
    assert names == ["layer_first.weight", "hidden.weight", "layer_out.weight"]
    edges = model.hidden.weight.numel()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    train(model, optimizer, x, torch.randint(3, (5,)))
    P.prune(model, P.Magnitude(), 0.5, P.Layer(), optimizer=optimizer)
    assert int(P.get_masks(model)["hidden.weight"].sum()) == round(0.5 * edges)
    assert model.generate_structure().number_of_edges() == round(0.5 * edges)
    before = P.dense_state_dict(model)
    train(model, optimizer, x, torch.randint(3, (5,)))
    masks = P.get_masks(model)
    after = P.dense_state_dict(model)
    assert all(not bool(after[n][~m].any()) for n, m in masks.items())
    assert any(not torch.equal(before[n], after[n]) for n in masks)
    torch.testing.assert_close(P.bake(model)(x), model(x))


def test_tickets_of_networks_of_graphs_keep_their_masks() -> None:
    model, x, y = dan(), torch.randn(5, 6), torch.randint(3, (5,))
    start = P.snapshot(model)
    assert "hidden._mask" not in start

    def fit(net: nn.Module) -> None:
        train(net, torch.optim.Adam(net.parameters(), 0.05), x, y)

    rounds = P.iterate(fit, model, P.keep(0.5), 3, start)
    assert [r.density for r in rounds] == pytest.approx([1, 0.5, 0.25], abs=0.02)
    P.rewind(model, start)
    mask = rounds[-1].masks["hidden.weight"]
    assert torch.equal(model.hidden.mask, mask)
    assert torch.equal(model.hidden.weight, torch.where(mask, start["hidden.weight"], 0))


def test_paths_through_networks_of_graphs() -> None:
    model = dan()
    view = P.View(model, example_input=torch.randn(1, 6))
    found = P.PathCentrality()(view)["hidden.weight"]
    structure = model.generate_structure(True, True)
    inputs, outputs = [n for n in structure if not structure.pred[n]], [n for n in structure if not structure.succ[n]]
    order = list(nx.topological_sort(structure))
    ahead = dict.fromkeys(structure, 0) | dict.fromkeys(inputs, 1)
    for u in order:
        for v in structure.succ[u]:
            ahead[v] += ahead[u]
    back = dict.fromkeys(structure, 0) | dict.fromkeys(outputs, 1)
    for v in reversed(order):
        for u in structure.pred[v]:
            back[u] += back[v]
    hidden = set(structure) - set(inputs) - set(outputs)
    wanted = sorted(ahead[u] * back[v] for u, v in structure.edges if u in hidden and v in hidden)
    assert sorted(found.tolist()) == pytest.approx(wanted)


def test_constraints_on_networks_of_graphs() -> None:
    model = dan()
    P.prune(model, P.Random(), 0.5, constraint=P.no_dead(), example_input=torch.randn(1, 6))
    assert P.alive(model, torch.randn(1, 6)).dead_units == 0


def test_feed_forward_networks_rewire() -> None:
    model, x, y = MaskedDeepFFN((1, 4, 4), 3, [20, 10]), torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with P.RigL(0.3, end=10, every=2).attach(model, optimizer) as session:
        train(model, optimizer, x, y, session.step, steps=6)
    assert session.density == pytest.approx(0.3, abs=0.01)
    assert any(event.grown for event in session.history[1:])
    torch.testing.assert_close(P.bake(model)(x), model(x))


def test_saliency_that_was_set_decides() -> None:
    model = small(MaskedLinearLayer)
    P.util.set_random_saliency(model)
    saliency = model[0].saliency.clone()
    P.prune(model, P.Saliency(), 0.5, P.Layer())
    mask = model[0].mask
    assert saliency[mask].min() >= saliency[~mask].max()
    plain = nn.Sequential(nn.Linear(4, 4))
    P.prune(plain, P.Saliency(), 0.5)
    assert int(P.get_masks(plain)["0.weight"].sum()) == 8
