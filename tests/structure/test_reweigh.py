"""Other weights in a graph: the same as extraction from a model that has them."""

from __future__ import annotations

import copy

import pytest
import torch
from random_nets import random_net
from torch import nn
from torch.nn.utils import parametrizations, prune

import deepstruct
from deepstruct.errors import InputError, StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.reweigh import stored_weights, with_stored_weights


class Tied(nn.Module):
    """One matrix forward and, transposed, backward; and a linear layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(4, 3, bias=False), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(torch.relu(self.again(torch.relu(self.first(x)) @ self.first.weight)))


class Parts(nn.Module):
    """Overlapping views of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x @ self.bank[:3].T) @ self.bank[1:4, 1:] + x[..., 1:]


class Gates(nn.Module):
    """A gate per feature: where it is zero, nothing passes, and that is no weight edge."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(6))
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.gate * torch.tanh(self.body(x)))


def _pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    prune.random_unstructured(net[0], "weight", 0.4)
    return net


def _masked() -> nn.Module:
    from deepstruct.sparse import MaskedConv2d, MaskedLinearLayer

    net = nn.Sequential(MaskedConv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), MaskedLinearLayer(32, 3))
    with torch.no_grad():
        for layer in (net[0], net[3]):
            layer.mask.copy_(torch.rand(layer.mask.shape) < 0.5)
    return net


def _sparse() -> nn.Module:
    from deepstruct.sparse import SparseLinear

    mask = (torch.arange(30) % 4 != 1).view(5, 6)
    return nn.Sequential(SparseLinear(6, 5, mask=mask), nn.ReLU(), nn.Linear(5, 2))


SPECIAL = {
    "sparse": (_sparse, (1, 6)),
    "tied": (Tied, (1, 4)),
    "views": (Parts, (1, 4)),
    "batch of matrices": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Unflatten(-1, (2, 3)), Batched()), (1, 4)),
    "gates": (Gates, (1, 6)),
    "pruned": (_pruned, (1, 6)),
    "masked": (_masked, (1, 1, 4, 4)),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 2)), (1, 4)),
    "channels last": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3)).to(memory_format=torch.channels_last),
        (1, 2, 5, 5),
    ),
}


class Batched(nn.Module):
    """One matrix for each of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x.transpose(0, 1), self.weight)


def assert_same(a: StructureGraph, b: StructureGraph) -> None:
    """The same slots, nodes, edges and weights, in the same order."""
    assert [(s.name, s.shape) for s in a.spaces] == [(s.name, s.shape) for s in b.spaces]
    assert torch.equal(a.is_node, b.is_node)
    assert a.operator_edges == b.operator_edges
    assert (a.num_weights, a.num_nonzero_weights) == (b.num_weights, b.num_nonzero_weights)
    one, two = a.edge_list(), b.edge_list()
    for x, y in ((one.source, two.source), (one.target, two.target), (one.weight, two.weight)):
        torch.testing.assert_close(torch.as_tensor(x), torch.as_tensor(y), rtol=1e-6, atol=1e-7, equal_nan=True)
    assert list(a.notes) == list(b.notes)


def redrawn(net: nn.Module, keep: float) -> nn.Module:
    """A copy with other weights, part of them zero."""
    return redraw(copy.deepcopy(net), keep)


def redraw(other: nn.Module, keep: float) -> nn.Module:
    """Other weights in place, part of them zero; what holds 0 and 1 keeps holding these."""
    with torch.no_grad():
        for name, tensor in (*other.named_parameters(), *other.named_buffers()):
            if name.endswith("mask"):
                tensor.copy_(torch.rand(tensor.shape) < keep)
            elif tensor.is_floating_point() and "running" not in name:
                tensor.copy_(torch.randn(tensor.shape) * (torch.rand(tensor.shape) < keep))
    return other


@pytest.mark.parametrize("seed", range(40))
def test_random_nets_with_other_weights(seed: int) -> None:
    net, x = random_net(seed)
    other = redrawn(net, 0.5)
    before = deepstruct.extract(net, x)
    count = before.num_edges
    made = before.reweighted(other.state_dict())
    assert_same(made, deepstruct.extract(other, x))
    assert before.num_edges == count


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_special_layers_with_other_weights(name: str, keep: float) -> None:
    make, shape = SPECIAL[name]
    net, x = make().eval(), torch.randn(shape)
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    other = redraw(make().eval(), 1.0 if name == "weight norm" else keep)
    made = deepstruct.extract(net, x).reweighted(other.state_dict())
    assert_same(made, deepstruct.extract(other, x))
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


def test_attributes_of_the_model_are_put_back() -> None:
    net = _masked().eval()
    objects = [id(p) for p in (*net.parameters(), *net.buffers())]
    deepstruct.extract(net, torch.randn(1, 1, 4, 4)).reweighted(redraw(_masked(), 0.5).state_dict())
    assert [id(p) for p in (*net.parameters(), *net.buffers())] == objects


@pytest.mark.parametrize("cut", [{"threshold": 0.3}, {"density": 0.4}])
def test_cuts_are_found_anew(cut: dict[str, float]) -> None:
    net, x = random_net(3)
    other = redrawn(net, 1.0)
    assert_same(deepstruct.extract(net, x, **cut).reweighted(other.state_dict()), deepstruct.extract(other, x, **cut))
    assert_same(deepstruct.extract(net, x).reweighted({}, **cut), deepstruct.extract(net, x, **cut))


def test_some_names_alone() -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.randn(1, 3)
    graph = deepstruct.extract(net, x).reweighted({"2.weight": torch.eye(2, 4)})
    assert graph.num_weight_edges == 12 + 2


def test_what_does_not_fit_is_named() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    graph = deepstruct.extract(net, torch.randn(1, 3))
    with pytest.raises(InputError, match=r"no parameter or buffer '0.wight' \(did you mean 0.weight"):
        graph.reweighted({"0.wight": torch.zeros(4, 3)})
    with pytest.raises(InputError, match=r"'0.weight' is of shape \(3, 4\), the model's is \(4, 3\)"):
        graph.reweighted({"0.weight": torch.zeros(3, 4)})
    with pytest.raises(StructureError, match="second order"):
        graph.quotient("second").reweighted({})


def test_weights_that_were_on_the_meta_device() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    real = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        real[0].weight[0] = 0
    made = deepstruct.extract(empty, torch.randn(1, 3)).reweighted(real.state_dict())
    assert made.num_weight_edges == deepstruct.extract(real, torch.randn(1, 3)).num_weight_edges == 9 + 8


@pytest.mark.parametrize("seed", range(25))
def test_stored_weights_go_back_in_place(seed: int) -> None:
    """Putting back what is there changes nothing; and new values are those of a model that has them."""
    net, x = random_net(seed)
    graph = deepstruct.extract(net, x)
    stored = stored_weights(graph)
    assert sum(int(s.possible.sum()) for s in stored.values()) <= graph.num_weights
    assert_same(with_stored_weights(graph, {key: s.values.clone() for key, s in stored.items()}), graph)
    sparser = {key: s.values * (torch.rand(s.values.shape) < 0.5) for key, s in stored.items()}
    other = copy.deepcopy(net)
    names = {id(p): p for p in other.parameters()}
    by_name = dict(zip((n for n, _ in net.named_parameters()), names.values(), strict=True))
    ids = {v: k for k, v in graph.context.trace.parameters.items()}
    with torch.no_grad():
        for (kind, leaf), values in sparser.items():
            assert kind == "parameter"
            weight = by_name[ids[leaf]]
            weight.copy_(values[: weight.numel()].view(weight.shape))
    assert_same(with_stored_weights(graph, sparser), deepstruct.extract(other, x))


def test_taps_on_padding_are_not_possible() -> None:
    """A 3 x 3 kernel on a 1 x 1 map: only its middle ever meets a unit."""
    net = nn.Conv2d(2, 3, 3, padding=1).eval()
    (stored,) = stored_weights(deepstruct.extract(net, torch.randn(1, 2, 1, 1))).values()
    assert int(stored.possible.sum()) == 6
    assert torch.equal(stored.possible.view(3, 2, 3, 3)[:, :, 1, 1], torch.ones(3, 2, dtype=torch.bool))
