"""Exact path counts: against recursions in Python integers, on digits so small that everything carries."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.engine import exact, passes
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from tests.engine.explicit import neighbors, net
from tests.structure.attention_nets import EXPLICIT, NETS, build


def counted(graph):
    """Paths from inputs to outputs, by the explicit edges."""
    edges, after, order = neighbors(graph)
    count = [0] * edges.num_nodes
    for node in edges.inputs.tolist():
        count[node] = 1
    for u in order:
        for v, _ in after[u]:
            count[v] += count[u]
    return sum(count[node] for node in edges.outputs.tolist())


@pytest.mark.parametrize("seed", range(15))
def test_digits_carry(seed, monkeypatch):
    graph = net(seed)
    expected = counted(graph)
    assert exact.path_count(graph) == expected
    fan = max(exact.fan(op, way) for op in graph.operators for way in (False, True))
    for spare in (1, 3):  # digits of that many bits
        monkeypatch.setattr(exact, "_BITS", fan.bit_length() + 1 + spare)
        assert exact.path_count(graph) == expected


@pytest.mark.parametrize("depth", [1, 2, 30, 150])
def test_beyond_every_float(depth):
    model = nn.Sequential(nn.Linear(3, 40), *(nn.Linear(40, 40) for _ in range(depth)), nn.Linear(40, 2))
    assert exact.path_count(deepstruct.extract(model.eval(), torch.randn(1, 3))) == 3 * 40 ** (depth + 1) * 2


@pytest.mark.parametrize("name", [name for name in NETS if name not in EXPLICIT])
def test_halves_do_not_meet_in_scores(name):
    model, inputs = build(name)
    implicit, units = (deepstruct.extract(model, inputs, attention=kind) for kind in ("implicit", "units"))
    assert exact.path_count(implicit) == exact.path_count(units) == passes.path_count(units)


def test_a_cycle_has_no_count():
    with pytest.raises(MetricError, match="cycles"):
        exact.path_count(StructureGraph.from_networkx(nx.DiGraph([(0, 1), (1, 0)])))


def test_inner_products_of_digits():
    left, right = ([torch.randint(0, 2**40, (70_000,)) for _ in range(3)] for _ in range(2))
    values = [
        [a + (b << 40) + (c << 80) for a, b, c in zip(*(d.tolist() for d in side), strict=True)]
        for side in (left, right)
    ]
    found = exact._inner([d.double() for d in left], [d.double() for d in right], 40, 40)
    assert found == sum(x * y for x, y in zip(*values, strict=True))


def test_how_often_a_slot_is_written():
    assert exact._repeats(Operand.strided((4, 3), (3, 1), 5)) == 1
    assert exact._repeats(Operand.strided((4, 3), (0, 1), 0)) == 4
    assert exact._repeats(Operand.strided((4, 3), (1, 1), 0)) == 12  # windows that overlap: an upper bound
    assert exact._repeats(Operand.indexed(torch.tensor([3, -1, 3, 2, -1, -1]))) == 2
