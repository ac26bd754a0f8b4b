"""Single steps, and the largest and smallest of what arrives, against explicit edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import deepstruct
from deepstruct.engine import sweep
from deepstruct.engine.adjacency import adjacency_action
from deepstruct.engine.semiring import Counting
from deepstruct.engine.semirings_extreme import HEAVIEST, LABELS, LIGHTEST, REGISTERS, STRONGEST, WEAKEST, WIDEST
from deepstruct.engine.semirings_words import WORDS, mark, popcount, present
from deepstruct.engine.steps import Steps
from deepstruct.structure.operators import WeightRef
from tests.engine.explicit import carried, neighbors, net, slots_of
from tests.random_nets import random_net

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_adds_up_over_the_edges(seed):
    graph = net(seed)
    edges, steps = graph.edge_list(), Steps(graph)
    x = torch.zeros(graph.num_slots, dtype=torch.float64)
    x[graph.is_node] = torch.randint(1, 100, (graph.num_nodes,)).double()
    lone = torch.zeros_like(x)
    space = graph.spaces[seed % len(graph.spaces)]
    lone[space.slots] = x[space.slots] * graph.is_node[space.slots]
    for vector, active in ((x, None), (lone, {space.index})):
        values = vector[graph.is_node].numpy()
        for transpose in (False, True):
            read, written = (edges.target, edges.source) if transpose else (edges.source, edges.target)
            expected = np.bincount(written, values[read], edges.num_nodes)
            found, touched = steps.step(vector, Counting(), transpose=transpose, active=active)
            assert np.array_equal(graph.slots_to_nodes(found), expected)
            assert not found[~graph.is_node].any()
            assert steps.holding(found, steps.everywhere) <= touched
            assert torch.equal(found, adjacency_action(graph, vector, transpose=transpose))


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_a_step_joins_words_and_registers(seed):
    graph = net(seed)
    edges, steps = graph.edge_list(), Steps(graph)
    words = torch.where(graph.is_node, torch.randint(-(2**63), 2**63 - 1, (graph.num_slots,)), 0)
    small = torch.where(graph.is_node, torch.randint(0, 9, (graph.num_slots,)), -1).to(torch.int32)
    large = torch.where(graph.is_node, torch.arange(graph.num_slots), -1).to(torch.int32)
    cases = ((WORDS, words, np.bitwise_or), (REGISTERS, small, np.maximum), (LABELS, large, np.maximum))
    for semiring, vector, join in cases:
        values = graph.slots_to_nodes(vector)
        for transpose in (False, True):
            read, written = (edges.target, edges.source) if transpose else (edges.source, edges.target)
            expected = np.full(edges.num_nodes, semiring.zero, values.dtype)
            join.at(expected, written, values[read])
            found, _ = steps.step(vector, semiring, transpose=transpose)
            assert np.array_equal(graph.slots_to_nodes(found), expected), semiring


def test_words_hold_64_marks():
    slots = torch.randperm(100)[:64]
    words = mark(slots, 100)
    assert [int(w.nonzero()) for w in (((words >> k) & 1) for k in range(64))] == slots.tolist()
    assert present(words) == list(range(64))
    assert popcount(words).tolist() == [int(k in set(slots.tolist())) for k in range(100)]
    assert popcount(torch.tensor([-1, 0, 5])).tolist() == [64, 0, 2]


def _length(semiring, w):
    if math.isnan(w):
        return math.inf if semiring.bottleneck else 1.0 if semiring.length == "abs" else 0.0
    return -math.log(abs(w)) if semiring.length == "neglog" else abs(w)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_lengths_and_widths(seed):
    graph = net(seed)
    edges, after, order = neighbors(graph)
    for semiring in (LIGHTEST, HEAVIEST, STRONGEST, WEAKEST, WIDEST):
        best = max if semiring.largest else min
        begin = math.inf if semiring.bottleneck else 0.0

        def along(x, w, s=semiring):
            return min(x, _length(s, w)) if s.bottleneck else x + _length(s, w)

        expected = carried(graph, dict.fromkeys(edges.inputs.tolist(), begin), semiring.zero, along, best)
        start = torch.where(graph.is_source, begin, semiring.zero).double()
        assert np.allclose(graph.slots_to_nodes(sweep(graph, start, semiring)), expected, rtol=1e-12)
        onward = [begin if node in set(edges.outputs.tolist()) else semiring.zero for node in range(edges.num_nodes)]
        for u in reversed(order):
            for v, w in after[u]:
                onward[u] = best(onward[u], along(onward[v], w))
        start = torch.where(graph.is_output, begin, semiring.zero).double()
        assert np.allclose(graph.slots_to_nodes(sweep(graph, start, semiring, transpose=True)), onward, rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS[:6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_widths_are_the_same_without_kernels(seed, dtype, monkeypatch):
    """Weights of float32 run through the kernel, those of float64 are rounded nowhere."""
    graph = deepstruct.extract(*random_net(seed))
    for op in graph.operators:
        if op.weight is not None and op.weight.tensor.is_floating_point():
            op.weight = WeightRef(op.weight.key, op.weight.tensor.to(getattr(torch, dtype)))
    start = torch.where(graph.is_source, math.inf, -math.inf).double()
    back = torch.where(graph.is_output, math.inf, -math.inf).double()
    found = sweep(graph, start, WIDEST), sweep(graph, back, WIDEST, transpose=True)
    monkeypatch.setenv("DEEPSTRUCT_NATIVE", "0")
    assert torch.equal(found[0], sweep(graph, start, WIDEST))
    assert torch.equal(found[1], sweep(graph, back, WIDEST, transpose=True))


def test_words_of_nodes_are_slots():
    graph = net(0)
    assert graph.node_ids()[slots_of(graph, [3, 5])].tolist() == [3, 5]
