"""Scores against autograd, brute force over paths, and the values of the literature."""

from __future__ import annotations

import itertools

import networkx as nx
import pytest
import torch
from pruning_nets import Recurrent, convolutional, lenet, small, sparse, train
from random_nets import random_net
from torch import nn

from deepstruct import pruning as P
from deepstruct.engine.passes import path_norm
from deepstruct.errors import InputError, MetricError
from deepstruct.sparse import MaskedLinearLayer


def data():
    return torch.randn(16, 8), torch.randint(4, (16,))


def test_gradient_scores_against_autograd() -> None:
    x, y = data()
    for kind in ("linear", "masked", "sparse"):
        model = {"linear": small, "masked": lambda: small(MaskedLinearLayer), "sparse": sparse}[kind]()
        P.set_masks(model, {n: torch.rand(t.shape) < 0.5 for n, t in P.find_targets(model).items()})
        twin = P.bake(model)
        nn.functional.cross_entropy(twin(x), y).backward()
        wanted = dict(twin.named_parameters())

        def loss(m, x=x, y=y):
            return nn.functional.cross_entropy(m(x), y)

        view = P.View(model)
        for name, value in P.Gradient(loss)(view).items():
            torch.testing.assert_close(value, wanted[name].grad.abs())
        for name, value in P.Snip(loss)(view).items():
            torch.testing.assert_close(value, (wanted[name].grad * wanted[name]).abs().detach())


def test_grasp_is_weight_times_hessian_times_gradient() -> None:
    x, y = data()
    model = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 4)).double()
    x = x.double()
    names = [n for n, p in model.named_parameters() if p.dim() > 1]

    def value(*weights):
        state = dict(model.named_parameters()) | dict(zip(names, weights, strict=True))
        return nn.functional.cross_entropy(torch.func.functional_call(model, state, (x,)), y)

    weights = tuple(p.detach() for p in model.parameters() if p.dim() > 1)
    gradient = torch.autograd.functional.jacobian(value, weights)
    hessian = torch.autograd.functional.hessian(value, weights)
    found = P.Grasp(lambda m: nn.functional.cross_entropy(m(x), y))(P.View(model))
    for i, name in enumerate(names):
        product = sum(torch.tensordot(hessian[i][j], gradient[j], 2) for j in range(2))
        torch.testing.assert_close(found[name], weights[i] * product)


def test_movement_adds_up_over_steps() -> None:
    x, y = data()
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    score = P.Movement()
    plan = P.Plan(score, P.Layer(), lambda step: 0.4 if step == 4 else None)
    total = {}
    with plan.attach(model, optimizer) as session:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    total[name] = total.get(name, 0) - (parameter * parameter.grad).detach()
            session.step()
    masks = P.get_masks(model)
    for name, mask in P.Layer().select(total, 0.4).items():
        assert torch.equal(masks[name], mask)
    with pytest.raises(InputError, match="seen no gradient"):
        P.Movement()(P.View(small()))


@pytest.mark.parametrize("net", ["linear", "conv"])
def test_synflow_is_conserved(net) -> None:
    """Sums over every cut of the network are equal, and equal to R."""
    model, x = (lenet(), torch.randn(1, 784)) if net == "linear" else (convolutional(), torch.randn(1, 2, 8, 8))
    view = P.View(model, example_input=x)
    found = P.SynFlow()(view)
    total = path_norm(view.network.graph(view.weights), "abs")
    for value in found.values():
        assert float(value.sum()) == pytest.approx(total, rel=1e-12)


def test_synflow_against_autograd() -> None:
    model = lenet().double()
    twin = nn.Sequential(*[m for m in P.bake(model) if not isinstance(m, nn.ReLU)])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_() if parameter.dim() > 1 else parameter.zero_()
    twin(torch.ones(1, 784, dtype=torch.float64)).sum().backward()
    for value, parameter in zip(
        P.SynFlow()(P.View(model)).values(), (p for p in twin.parameters() if p.dim() > 1), strict=True
    ):
        torch.testing.assert_close(value, parameter.grad * parameter.detach())


def test_path_centrality_by_listing_paths() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Linear(3, 2))
    masks = {n: torch.rand(t.shape) < 0.6 for n, t in P.find_targets(model).items()}
    P.set_masks(model, masks)
    found = P.PathCentrality()(P.View(model))
    layers = list(masks.values())
    for k, name in enumerate(masks):
        counts = torch.zeros(layers[k].shape, dtype=torch.float64)
        for units in itertools.product(range(3), range(4), range(3), range(2)):
            steps = [bool(layers[i][units[i + 1], units[i]]) for i in range(3)]
            if all(s for i, s in enumerate(steps) if i != k):  # the weight itself may be absent
                counts[units[k + 1], units[k]] += 1
        torch.testing.assert_close(found[name], counts)


@pytest.mark.parametrize("seed", range(8))
def test_path_scores_of_random_nets_count_paths(seed) -> None:
    """The number of paths through a weight is what the path count loses without it."""
    model, x = random_net(seed)
    try:
        view = P.View(model.eval(), example_input=x)
    except InputError:
        pytest.skip("no weight to prune in this net")
    found = P.PathCentrality()(view)
    name = list(found)[seed % len(found)]
    whole = path_norm(view.network.graph({n: m.double() for n, m in view.masks.items()}), "abs")
    place = int(torch.randint(found[name].numel(), ()))
    masks = {n: m.clone() for n, m in view.masks.items()}
    masks[name].view(-1)[place] = False
    rest = path_norm(view.network.graph({n: m.double() for n, m in masks.items()}), "abs")
    # a weight that is used twice on one path is on fewer paths than its uses
    assert float(found[name].view(-1)[place]) >= whole - rest - 1e-6 * whole
    if not any(isinstance(m, (nn.RNNBase, nn.RNNCellBase)) for m in model.modules()):
        assert float(found[name].view(-1)[place]) == pytest.approx(whole - rest, rel=1e-6)


def test_graph_metrics_as_scores() -> None:
    model = small()
    P.prune(model, P.Random(), 0.5)
    view = P.View(model)
    graph = view.network.graph(view.weights)
    degree = nx.DiGraph(graph.to_networkx()).in_degree()
    found = P.GraphMetric("in_degree", join="sum")(view)["2.weight"]
    ids = list(graph.to_networkx().nodes)
    hidden = [ids[8:20], ids[20:30]]
    for o in range(10):
        for i in range(12):
            assert found[o, i] == degree[hidden[0][i]] + degree[hidden[1][o]]
    layer = P.GraphMetric("layer_density")(view) if "layer_density" in _names("layer") else None
    if layer is not None:
        assert all(len(value.unique()) == 1 for value in layer.values())
    with pytest.raises(MetricError, match="one number for the whole graph"):
        P.GraphMetric("nodes")(view)
    with pytest.raises(MetricError, match="did you mean"):
        P.GraphMetric("in_degre")(view)


def _names(scope):
    from deepstruct.plugin.current import get_host

    return {metric.name for metric in get_host().registry().metrics if metric.scope == scope}


def test_recurrent_weights_have_path_scores() -> None:
    model, x = Recurrent(), torch.randn(1, 3, 3)
    found = P.SynFlow()(P.View(model, example_input=x))
    assert set(found) == set(P.get_masks(model))
    assert all(bool(torch.isfinite(v).all()) for v in found.values())
    assert all(bool((v > 0).any()) for v in found.values())


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 1
    for k, out in enumerate([16, 32, 64, 64, 128, 128]):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
        if k in (1, 3, 5):
            layers.append(nn.MaxPool2d(2))
        width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def kaiming(model):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
    return model


@pytest.mark.slow
def test_synflow_does_not_collapse() -> None:
    """Compression 1,000: one-shot magnitude empties layers, SynFlow in 100 rounds none."""
    sizes = [784, *[100] * 6, 10]
    mlp = nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
    for model, x, emptied in ((mlp, torch.randn(1, 784), "0.weight"), (vgg(), torch.randn(1, 1, 28, 28), "12.weight")):
        kaiming(model)
        start = P.snapshot(model)
        P.prune(model, P.Magnitude(), 1e-3)
        empty = {n for n, m in P.get_masks(model).items() if not bool(m.any())}
        assert emptied in empty
        P.set_masks(model, {n: torch.ones_like(m) for n, m in P.get_masks(model).items()})
        P.rewind(model, start)
        P.prune(model, P.SynFlow(), 1e-3, rounds=100, example_input=x)
        masks = P.get_masks(model)
        assert all(bool(m.any()) for m in masks.values())
        assert sum(int(m.sum()) for m in masks.values()) == round(1e-3 * sum(m.numel() for m in masks.values()))


def test_a_score_of_ones_own() -> None:
    model = small()
    P.prune(model, lambda view: {n: -w.abs() for n, w in view.weights.items()}, 0.5)
    weights = P.dense_state_dict(model)
    assert weights["0.weight"].count_nonzero() < 60
    with pytest.raises(InputError, match=r"nothing for '2\.weight'"):
        P.prune(model, lambda view: {"0.weight": torch.ones(12, 8)}, 0.4)
    with pytest.raises(InputError, match="is of shape"):
        P.prune(model, lambda view: {n: torch.ones(2) for n in view.targets}, 0.4)


def test_gradients_that_are_not_there() -> None:
    with pytest.raises(InputError, match="run a backward pass"):
        P.prune(small(), P.Gradient(), 0.5)
    with pytest.raises(InputError, match="one differentiable number"):
        P.prune(small(), P.Snip(lambda m: m(torch.randn(2, 8))), 0.5)


def test_training_after_snip() -> None:
    x, y = data()
    model = small()
    P.prune(model, P.Snip(lambda m: nn.functional.cross_entropy(m(x), y)), 0.2, P.Global(), P.no_dead())
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    before = nn.functional.cross_entropy(model(x), y).item()
    train(model, optimizer, x, y, steps=40)
    assert nn.functional.cross_entropy(model(x), y).item() < before / 2
