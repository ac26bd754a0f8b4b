"""Each order is the quotient of the one below it: against a brute-force quotient of the explicit edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.errors import StructureError
from deepstruct.structure.orders.higher import PARTITIONS
from tests.random_nets import random_net


def brute_quotient(graph, labels, groups):
    """{(space name, index) pair: [has weight edge, sum of |w|]}, self-loops left out."""
    edges = graph.edge_list()
    label = graph.slots_to_nodes(labels.tensor(), "max")
    place = {}
    for group in groups:
        for k, value in enumerate(group.labels.tolist()):
            place[value] = (group.name, k)
    out = {}
    for s, t, w in zip(edges.source, edges.target, edges.weight, strict=True):
        a, b = label[s], label[t]
        if a == b:
            continue
        entry = out.setdefault((place[a], place[b]), [False, 0.0])
        if not np.isnan(w):
            entry[0] = True
            entry[1] += abs(w)
    return out


def edges_by_name(graph):
    edges = graph.edge_list()
    keys = [(row["space"], row["index"][0]) for row in graph.node_table()]
    return {
        (keys[s], keys[t]): [not np.isnan(w), 0.0 if np.isnan(w) else abs(w)]
        for s, t, w in zip(edges.source, edges.target, edges.weight, strict=True)
    }


def check_tower(graph):
    for order in ("first", "second", "third"):
        partition, _ = PARTITIONS[order]
        labels, groups, _ = partition(graph)
        above = graph.quotient(order)
        expected, found = brute_quotient(graph, labels, groups), edges_by_name(above)
        assert expected.keys() == found.keys()
        for key, (weighted, amount) in expected.items():
            assert found[key][0] == weighted
            assert found[key][1] == pytest.approx(amount, rel=1e-4, abs=1e-12)
        assert above.order == order
        assert above.num_edges == len(found)
        graph = above


@pytest.mark.parametrize("seed", range(60))
def test_every_order_is_the_quotient_of_the_one_below(seed):
    check_tower(deepstruct.extract(*random_net(seed)))


@pytest.mark.parametrize("seed", range(20))
def test_shortcuts_lead_to_the_same_graph(seed):
    graph = deepstruct.extract(*random_net(seed))
    by_steps = graph.quotient("first").quotient("second")
    assert edges_by_name(graph.quotient("second")).keys() == edges_by_name(by_steps).keys()
    assert edges_by_name(graph.quotient("third")).keys() == edges_by_name(by_steps.quotient("third")).keys()


@pytest.mark.parametrize("seed", range(20))
def test_weight_is_conserved(seed):
    """The sum of |w| over all edges is the same at every order, but for what lies inside a node."""
    model, x = random_net(seed)
    graph = deepstruct.extract(model, x)
    total = np.nansum(np.abs(graph.edge_list().weight))
    first = graph.quotient("first")
    if first.num_self_loops == 0:
        assert np.nansum(first.edge_list().weight) == pytest.approx(total, rel=1e-4)


def test_first_order_of_a_grouped_convolution_is_block_diagonal():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2))
    graph = deepstruct.extract(model, torch.randn(1, 4, 5, 5), order="first")
    pairs = {(s[1], t[1]) for s, t in edges_by_name(graph)}
    assert pairs == {(i, o) for i in range(4) for o in range(6) if i // 2 == o // 3}


def test_only_taps_that_read_a_unit_make_channel_edges():
    """On a 1x1 map only the centre tap of a padded 3x3 kernel reads anything."""
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(1)
        conv.weight[0, 1, 1, 1] = 0
    graph = deepstruct.extract(conv, torch.randn(1, 2, 1, 1), order="first")
    assert {(s[1], t[1]) for s, t in edges_by_name(graph)} == {(0, 0), (0, 1), (1, 1)}


def test_flatten_then_linear_maps_a_channel_to_a_block_of_inputs():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 4, 2, bias=False))
    with torch.no_grad():
        model[2].weight[:, 4:8] = 0
    graph = deepstruct.extract(model, torch.randn(1, 1, 2, 2), order="first")
    into_head = {s for s, t in edges_by_name(graph) if t[0] == "2"}
    assert into_head == {("0", 0), ("0", 2)}


def test_concatenation_is_a_disjoint_union():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(5, 1, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    graph = deepstruct.extract(Net(), torch.randn(1, 1, 3, 3), order="first")
    assert {s for s, t in edges_by_name(graph) if t[0] == "c"} == {
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2),
    }  # fmt: skip


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.body(x, x, x, need_weights=False)[0]


def test_heads_refine_the_channels_of_attention():
    x = torch.randn(1, 3, 8)
    channels = deepstruct.extract(Attention(), x, order="first")
    heads = deepstruct.extract(Attention(), x, order="first", unit="head")
    sizes = {s.name: s.numel for s in channels.spaces}
    by_head = {s.name: s.numel for s in heads.spaces}
    assert [n for n in by_head.values() if n == 2], by_head
    projection = next(name for name, n in sizes.items() if n == 24)
    assert by_head[projection] == 2
    with pytest.raises(StructureError, match="channel"):
        deepstruct.extract(Attention(), x, order="first", unit="neuron")


def test_recurrent_channels_are_shared_over_time():
    graph = deepstruct.extract(nn.RNN(2, 3, batch_first=True), torch.randn(1, 5, 2), order="first")
    assert graph.num_nodes == 5
    assert not graph.is_dag
    assert any("cycles" in note for note in graph.notes)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.body = nn.Sequential(Block(6), Block(6))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.body(torch.relu(self.stem(x)))
        x = x * torch.sigmoid(x.sum(-1, keepdim=True))
        return self.head(x)


def _cells(graph):
    return [space.name for space in graph.spaces]


def test_cells_are_calls_at_a_depth():
    net, x = Net(), torch.randn(1, 4)
    assert _cells(deepstruct.extract(net, x, order="third", depth=1)) == ["input", "stem", "body", "model:2", "head"]
    assert _cells(deepstruct.extract(net, x, order="third", depth=2)) == [
        "input", "stem", "body.0", "body.1", "model:2", "head",
    ]  # fmt: skip
    with pytest.raises(StructureError, match="depth"):
        deepstruct.extract(net, x, order="third", depth=0)


def test_cells_by_a_partition():
    net, x = Net(), torch.randn(1, 4)
    graph = deepstruct.extract(net, x, order="third", partition={"body": "trunk", "stem": "trunk", "head": "top"})
    assert set(_cells(graph)) == {"input", "trunk", "model:2", "top"}
    one = deepstruct.extract(net, x, order="third", partition=lambda space: "all")
    assert one.num_nodes == 1
    assert one.num_edges == 0
    assert one.num_self_loops == 1


def test_a_module_called_twice_makes_two_cells():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    graph = deepstruct.extract(Twice(), torch.randn(1, 3), order="third")
    assert _cells(graph) == ["input", "layer", "layer#1"]
    assert graph.num_edges == 2


class Scatter(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.relu(self.first(x))
        out = torch.zeros(2, 4).index_add(0, torch.tensor([0, 1, 1]), h[0])
        return self.last(out)


def test_scattered_sums_have_channels_of_their_own():
    graph = deepstruct.extract(Scatter(), torch.randn(1, 3, 3))
    check_tower(graph)
    first = graph.quotient("first")
    sizes = {space.name: space.numel for space in first.spaces}
    assert sizes == {"x": 3, "first": 4, "index_add": 4, "last": 2}


def test_orders_go_up_only():
    graph = deepstruct.extract(Net(), torch.randn(1, 4), order="second")
    with pytest.raises(StructureError, match="no quotient"):
        graph.quotient("first")
    with pytest.raises(StructureError, match="unknown order"):
        graph.quotient("fifth")
