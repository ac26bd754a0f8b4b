"""Sweeps that keep a space only while it is in use: the values of the others, and how many are there at once."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator import view
from deepstruct.engine import BOOLEAN, LONGEST, SHORTEST, Counting, Modular, components, passes, stream, sweep
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from tests.engine.explicit import net
from tests.random_nets import random_net

SEMIRINGS = {
    "or": BOOLEAN, "count": Counting(), "abs": Counting(mode="abs"), "mod": Modular(101), "longest": LONGEST,
    "shortest": SHORTEST,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_equals_a_sweep(seed):
    graph = net(seed) if seed % 2 else deepstruct.extract(*random_net(seed))
    name = list(SEMIRINGS)[seed % len(SEMIRINGS)]
    semiring = SEMIRINGS[name]
    for transpose in (False, True):
        marks = graph.is_output if transpose else graph.is_source
        start = marks.to(torch.int32) - 1 if name in ("longest", "shortest") else marks.to(semiring.dtype)
        whole = sweep(graph, start, semiring, transpose=transpose)
        seen = []

        def visit(space, values, whole=whole, seen=seen):
            seen.append(space.index)
            assert torch.allclose(values, whole[space.slots], rtol=1e-12)

        stream.stream(graph, start, semiring, visit, transpose=transpose)
        assert sorted(seen) == [space.index for space in graph.spaces if space.numel]
        if not transpose:
            ends = stream.at_outputs(graph, start, semiring)
            assert torch.allclose(ends, whole[graph.is_output], rtol=1e-12)


def test_few_vectors_at_once():
    graph = deepstruct.extract(nn.Sequential(*(nn.Linear(50, 50) for _ in range(30))).eval(), torch.randn(1, 50))
    alive, most = weakref.WeakSet(), 0

    def visit(space, values):
        nonlocal most
        alive.add(values)
        most = max(most, len(alive))

    stream.stream(graph, graph.is_source, Counting(), visit)
    assert len(graph.spaces) == 31
    assert most <= 2


def test_a_cycle_is_refused():
    graph = StructureGraph.from_networkx(nx.DiGraph([(0, 1), (1, 0)]))
    with pytest.raises(MetricError, match="cycles"):
        stream.stream(graph, graph.is_source, BOOLEAN, lambda space, values: None)


@pytest.mark.parametrize("width", [1, 6])
def test_sizes_of_components(width):
    groups = [nn.Conv1d(width, width, 1, groups=width) for _ in range(3)]
    with torch.no_grad():
        groups[1].weight[:1] = 0  # cuts the first channel in two
    graph = deepstruct.extract(nn.Sequential(*groups).eval(), torch.randn(1, width, 5))
    alone = graph.is_node & (passes.in_degree(graph) == 0)
    alone &= passes.out_degree(graph) == 0
    expected = sorted(map(len, nx.weakly_connected_components(graph.to_networkx())), reverse=True)
    assert components.sizes_of_components(graph, alone) == expected
    assert components.component_sizes(components.component_labels(graph, alone)) == expected
    assert len(expected) == 5 * (width + 1)


def test_vectors():
    x = torch.randn(1000)
    assert torch.equal(vectors.converted(x, torch.float64), x.double())
    assert vectors.full(3, torch.int32, -1).tolist() == [-1, -1, -1]
    assert vectors.empty(4, torch.bfloat16).dtype == torch.bfloat16  # numpy has none
    assert vectors.how_many(x > 0) == int(np.sum(x.numpy() > 0))
    assert vectors.how_many((x > 0).view(torch.uint8)[::2]) == int((x > 0)[::2].sum())


@pytest.mark.parametrize("seed", range(24))
def test_degrees_space_by_space(seed):
    graph = net(seed) if seed % 2 else deepstruct.extract(*random_net(seed))
    into, onward = passes.in_degree(graph), passes.out_degree(graph)
    seen = []
    for space, ins, outs in passes.degree_blocks(graph):
        seen.append(space.index)
        assert torch.equal(ins.to(torch.float64), into[space.slots])
        assert torch.equal(outs.to(torch.float64), onward[space.slots])
    assert sorted(seen) == [space.index for space in graph.spaces if space.numel]


def test_degrees_of_a_graph_without_edges():
    graph = deepstruct.extract(nn.Identity(), torch.randn(1, 5))
    assert [(ins.tolist(), outs.tolist()) for _, ins, outs in passes.degree_blocks(graph)] == [([0] * 5, [0] * 5)]


@pytest.mark.parametrize("seed", range(12))
def test_degrees_tell_the_same_with_and_without_vectors(seed, monkeypatch):
    graph = net(seed) if seed % 2 else deepstruct.extract(*random_net(seed))
    kept = view.OperatorView(graph, AnalysisContext())
    assert kept.degrees["in_degree"].numel() == graph.num_slots
    monkeypatch.setattr(view, "_DEGREES_KEPT", 2**60)
    streamed = view.OperatorView(graph, AnalysisContext())
    for vector in ("in_degree", "out_degree", "degree"):
        one, other = kept.degree_counts_by_space(vector), streamed.degree_counts_by_space(vector)
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in one)
    for names in (("in_degree",), ("out_degree",), ("in_degree", "out_degree")):
        assert kept.hidden_without(*names) == streamed.hidden_without(*names)
    assert kept.components == streamed.components
    assert "degrees" not in streamed.__dict__


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_pages_go_back():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    code = ctypes.CDLL(None)
    if not hasattr(code, "malloc_trim"):
        pytest.skip("the C library keeps no freed pages that it could hand back")
    code.malloc.restype, code.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    code.free.argtypes = [ctypes.c_void_p]
    blocks = [code.malloc(100_000) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[::2]:  # what lies between two blocks that stay is kept by the C library
        code.free(block)
    before = resident()
    vectors.give_back()
    assert (before - resident()) * os.sysconf("SC_PAGE_SIZE") > 50e6
    for block in blocks[1::2]:
        code.free(block)
