"""Constraints by path, against networkx on the explicit graph; requests that cannot be met change nothing."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from pruning_nets import convolutional, lenet, small
from random_nets import random_net
from torch import nn

from deepstruct import extract
from deepstruct import pruning as P
from deepstruct.errors import InputError

ALL = {"alive": P.outputs_alive, "dead": P.no_dead, "connected": P.connected}


def kept(model):
    return [int(m.sum()) for m in P.get_masks(model).values()]


def explicit(model, x=None):
    """The graph, its inputs and outputs, as networkx has them."""
    graph = extract(P.bake(model).eval(), x, progress=False)
    return graph.to_networkx(), graph.input_nodes().tolist(), graph.output_nodes().tolist()


def test_dead_is_meant_by_path() -> None:
    """Global magnitude at initialisation empties the first layer: no output row is empty, every output is cut off."""
    torch.manual_seed(0)
    model = lenet()
    P.prune(model, P.Magnitude(), 0.02)
    assert kept(model) == [0, 4833, 491]
    assert bool(P.get_masks(model)["4.weight"].any(1).all())
    found = P.alive(model)
    assert (found.dead_outputs, found.outputs) == (10, 10)
    assert (found.dead_inputs, found.inputs) == (784, 784)
    assert found.dead_units == 400
    assert found.dead_weights == 5324
    assert "outputs cut off: 10 of 10" in str(found)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("density", [0.1, 0.02])
def test_constraints_hold_and_budgets_stay(name, density) -> None:
    model = lenet()
    P.prune(model, P.Magnitude(), density, constraint=ALL[name]())
    assert sum(kept(model)) == round(density * 266200)
    found = P.alive(model)
    assert found.dead_outputs == 0
    if name == "dead":
        assert found.dead_units == 0
    if name == "connected":
        assert found.dead_inputs == 0
        masks = [m.double() for m in P.get_masks(model).values()]
        assert bool((masks[2] @ masks[1] @ masks[0] > 0).all())


def test_pruning_at_95_percent_leaves_no_dead_output_or_says_so() -> None:
    model = lenet()
    nn.init.normal_(model[0].weight, std=1e-4)
    free = P.prune(model, P.Magnitude(), 0.05)
    assert free.alive().dead_outputs == 10
    model = lenet()
    nn.init.normal_(model[0].weight, std=1e-4)
    held = P.prune(model, P.Magnitude(), 0.05, constraint=P.outputs_alive())
    assert held.alive().dead_outputs == 0


def test_fewest_edges_that_connect_all_pairs() -> None:
    model = lenet()
    P.prune(model, P.Magnitude(), 795 / 266200, constraint=P.connected())
    assert sum(kept(model)) == 795
    masks = [m.double() for m in P.get_masks(model).values()]
    assert bool((masks[2] @ masks[1] @ masks[0] > 0).all())
    whole = lenet()
    keys = list(whole.state_dict())
    with pytest.raises(P.Infeasible, match="fewest weights found that do are 795, and the budget is 794"):
        P.prune(whole, P.Magnitude(), 794 / 266200, constraint=P.connected())
    assert list(whole.state_dict()) == keys
    assert kept(whole) == [235200, 30000, 1000]


def test_budgets_of_layers_are_kept_to() -> None:
    model = lenet()
    with pytest.raises(P.Infeasible, match="Global"):
        P.prune(model, P.Magnitude(), 0.003, P.Layer(), P.connected())  # 3 weights for ten outputs
    assert kept(model) == [235200, 30000, 1000]
    P.prune(model, P.Magnitude(), 0.02, P.ERK(), P.no_dead())
    assert kept(model) == [3621, 1336, 367]
    assert P.alive(model).dead_units == 0


def test_an_earlier_choice_can_make_it_impossible() -> None:
    model = lenet()
    P.set_masks(model, {"0.weight": torch.zeros(300, 784, dtype=torch.bool)})
    with pytest.raises(P.Infeasible, match="not even all weights that are left"):
        P.prune(model, P.Magnitude(), 0.1, constraint=P.outputs_alive())
    plan = P.Plan(P.Random(), P.Global(), 0.1, P.outputs_alive(), regrow=True)
    assert plan.attach(model).alive().dead_outputs == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", sorted(ALL))
def test_random_nets_against_networkx(seed, name) -> None:
    model, x = random_net(seed)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():  # some of these nets have zeros, which masks know nothing of
            parameter.masked_fill_(parameter == 0, 0.5)
    try:
        whole = P.View(model, example_input=x)
    except InputError:
        pytest.skip("no weight to prune in this net")
    before, inputs, outputs = explicit(model, x)
    del whole
    try:
        P.prune(model, P.Random(), 0.4, constraint=ALL[name](), example_input=x, seed=seed)
    except P.Infeasible:  # small nets may need more than that
        P.prune(model, P.Random(), 0.8, constraint=ALL[name](), example_input=x, seed=seed)
    after, ins, outs = explicit(model, x)

    def reach(graph, ins, outs):
        return [[nx.has_path(graph, i, o) for o in outs] for i in ins]

    was, now = reach(before, inputs, outputs), reach(after, ins, outs)
    if name == "connected":
        assert now == was
    for o in range(len(outputs)):
        if any(row[o] for row in was):
            assert any(row[o] for row in now)
    if name == "dead":
        found = P.alive(model, x)
        assert found.dead_units == 0


def test_convolutions_are_wired_through_shared_weights() -> None:
    model, x = convolutional(), torch.randn(1, 2, 8, 8)
    P.prune(model, P.Magnitude(), 0.25, constraint=P.AllOf(P.outputs_alive(), P.no_dead()), example_input=x)
    found = P.alive(model, x)
    assert found.dead_outputs == found.dead_units == 0
    assert sum(kept(model)) == round(0.25 * (108 + 432 + 160))


def test_alive_counts_against_networkx() -> None:
    model = small()
    P.prune(model, P.Random(), 0.15, seed=3)
    graph, inputs, outputs = explicit(model)
    found = P.alive(model)
    ahead = set(inputs).union(*(nx.descendants(graph, i) for i in inputs))
    back = set(outputs).union(*(nx.ancestors(graph, o) for o in outputs))
    assert found.dead_outputs == sum(o not in ahead for o in outputs)
    assert found.dead_inputs == sum(i not in back for i in inputs)
    hidden = set(graph) - set(inputs) - set(outputs)
    assert found.dead_units == len(hidden - (ahead & back))
    assert found.dead_weights == sum(not (u in ahead and v in back) for u, v in graph.edges)


def test_a_model_that_needs_an_input() -> None:
    with pytest.raises(InputError, match="example input"):
        P.prune(convolutional(), P.Magnitude(), 0.5, constraint=P.outputs_alive())


def test_no_dead_units_at_the_fewest_weights() -> None:
    """Every layer needs as many weights as its wider side has hidden units: at 8-12-10-4 that is 12 + 12 + 10."""
    for budget in (44, 40):
        model = small()
        P.prune(model, P.Magnitude(), budget / 256, constraint=P.no_dead())
        assert sum(kept(model)) == budget
        assert P.alive(model).dead_units == 0
    with pytest.raises(P.Infeasible):
        P.prune(small(), P.Magnitude(), 33 / 256, constraint=P.no_dead())
