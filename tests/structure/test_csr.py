"""Compressed sparse rows of the explicit graph: against lists of edges made element by element, and by numpy alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from deepstruct import _native
from deepstruct.errors import CapacityError, InputError, StructureError
from deepstruct.structure.csr import MAX_NODES, ExplicitCsr, build_csr
from deepstruct.structure.edges import build_edge_list
from deepstruct.structure.export import edge_pairs, node_columns
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Identity, Matmul, Separable, Sparse, WeightRef
from deepstruct.structure.space import Space
from deepstruct.testing import build_graph

from ..random_nets import random_net
from .cases import CASES, Case, r

KINDS = [None, "float32", "float64", "index"]
native = pytest.mark.skipif(_native.load() is None, reason="the compiled graph kernels are not built")


def brute(graph: StructureGraph) -> list[tuple[int, int, float]]:
    """Sorted (source, target, weight) of every edge, straight from the operators, one by one."""
    edges = []
    for op in graph.operators:
        source, target = (side.tolist() for side in graph.element_nodes(op))
        for piece in op.edges():
            for e, f, w in zip(*(column.tolist() for column in piece), strict=True):
                if source[e] >= 0 and target[f] >= 0:
                    edges.append((source[e], target[f], w))
    return sorted(edges, key=lambda edge: (edge[0], edge[1], math.isnan(edge[2]), edge[2]))


def listed(csr: ExplicitCsr) -> list[tuple[int, int, float]]:
    assert csr.weights is not None
    return list(zip(csr.sources().tolist(), csr.indices.tolist(), csr.weights.tolist(), strict=True))


def equal(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def same(one: ExplicitCsr, other: ExplicitCsr) -> None:
    assert one.num_nodes == other.num_nodes
    assert equal(one.indptr, other.indptr)
    assert equal(one.indices, other.indices)
    assert (one.weights is None) == (other.weights is None)
    if one.weights is not None and other.weights is not None:
        assert one.weights.dtype == other.weights.dtype
        assert np.array_equal(one.weights, other.weights, equal_nan=one.weights.dtype.kind == "f")


def check(graph: StructureGraph, patch: pytest.MonkeyPatch) -> None:
    """Rows, with and without weights, compiled and by numpy, are the edges of the operators."""
    edges = brute(graph)
    csr = build_csr(graph, "float64")
    assert csr.indptr.dtype == np.int64
    assert csr.indices.dtype == np.int32
    assert csr.num_nodes == graph.num_nodes
    assert csr.num_edges == len(edges)
    if all(op.target.complete for op in graph.operators):  # as in every graph of a model
        assert graph.num_edges == len(edges)
    assert equal(listed(csr), edges)
    assert list(edge_pairs(csr)) == [edge[:2] for edge in edges]
    kinds = KINDS if graph.order == "zeroth" else KINDS[:3]
    built = [build_csr(graph, kind) for kind in kinds]
    with patch.context() as without:
        without.setattr(_native, "load", lambda: None)
        for kind, one in zip(kinds, built, strict=True):
            same(one, build_csr(graph, kind))
        back = csr.transposed()
    same(back, csr.transposed())
    assert list(edge_pairs(back)) == sorted((v, u) for u, v, _ in edges)
    if graph.order == "zeroth":
        positions(graph, built[3], built[2])


def positions(graph: StructureGraph, index: ExplicitCsr, values: ExplicitCsr) -> None:
    """Each weight lies where its position says."""
    refs = [op.weight.tensor for op in graph.operators if op.weight is not None and op.weighted]
    if not sum(t.numel() for t in refs) or any(t.is_meta for t in refs):
        return
    stored = torch.cat([t.detach().to(torch.float64).reshape(-1) for t in refs]).numpy()
    assert index.weights is not None
    found = np.where(index.weights < 0, np.nan, stored[index.weights])
    # equal columns of a row are sorted by what they carry, which may be another order
    keys = np.stack([values.sources().astype(float), values.indices.astype(float)])
    order, given = np.lexsort((found, keys[1], keys[0])), values.weights
    assert given is not None
    assert np.array_equal(found[order], given, equal_nan=True)


@pytest.mark.parametrize("seed", range(80))
def test_random_nets_at_all_orders(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = random_net(seed)
    graph = build_graph(model, x)
    check(graph, monkeypatch)
    if seed % 3 == 0:
        for order in ("first", "second", "third"):
            check(graph.quotient(order), monkeypatch)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build_graph(case.make().eval(), case.inputs)
    check(graph, monkeypatch)


# -- operators of all geometries, on operands that no model would give them


def made(*operators: EdgeOperator, slots: int) -> StructureGraph:
    space = Space(0, "all", "", "layer", (slots,), 0)
    return StructureGraph("zeroth", "made", [space], list(operators), torch.zeros(slots, dtype=torch.bool))


def weights(*shape: int, seed: int, zeros: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (tensor * (torch.rand(shape, generator=generator) >= zeros)).to(dtype)


def operand(shape: Sequence[int], offset: int, seed: int, kind: str) -> Operand:
    stride = tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
    plain = Operand.strided(tuple(shape), stride, offset)
    if kind == "strided":
        return plain
    generator = torch.Generator().manual_seed(seed)
    table = plain.index().clone()
    if kind == "shuffled":
        table = table.reshape(-1)[torch.randperm(table.numel(), generator=generator)].reshape(shape)
    elif kind == "holes":
        table[torch.rand(table.shape, generator=generator) < 0.3] = -1
    elif kind == "repeated" and table.numel():
        table = table.reshape(-1)[torch.randint(table.numel(), (table.numel(),), generator=generator)].reshape(shape)
    return Operand.indexed(table)


SIDES = ["strided", "shuffled", "holes", "repeated"]


@pytest.mark.parametrize("seed", range(60))
def test_convolutions(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    rank, transposed = int(rng.integers(1, 4)), bool(rng.integers(2))
    groups = int(rng.choice([1, 1, 2, 3]))
    c_in, c_out, batch = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4)), int(rng.integers(1, 3))
    kernel, stride, dilation = ([int(rng.integers(1, 4)) for _ in range(rank)] for _ in range(3))
    padding = [int(rng.integers(0, 3)) for _ in range(rank)]
    reach = [0 if transposed else d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    size = [int(rng.integers(1, 5)) + more for more in reach]
    extra = [int(rng.integers(0, s)) if transposed else 0 for s in stride]
    shape = (c_in, c_out // groups, *kernel) if transposed else (c_out, c_in // groups, *kernel)
    tensor = weights(*shape, seed=seed, zeros=float(rng.choice([0, 0.02, 0.5, 0.95, 1])),
                     dtype=rng.choice([torch.float32, torch.float64, torch.float16, torch.bfloat16]))  # fmt: skip
    try:
        out = torch.ops.aten.convolution(
            torch.zeros(batch, c_in, *size), torch.zeros(shape), None, stride, padding, dilation, transposed, extra,
            groups,
        )
    except RuntimeError:  # nothing comes out of this geometry
        assert transposed
        return
    if rng.integers(2):  # as a channels-last model stores it
        tensor = tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    a = operand((batch, c_in, *size), 0, seed, SIDES[seed % 4])
    b = operand(tuple(out.shape), a.numel, seed, SIDES[seed // 4 % 4])
    threshold = float(rng.choice([0, 0.7]))
    op = Conv(a, b, WeightRef(("w",), tensor, bool(rng.integers(4))), tuple(stride), tuple(padding), tuple(dilation),
              transposed, tuple(extra), groups, threshold)  # fmt: skip
    check(made(op, slots=a.numel + b.numel), monkeypatch)


@pytest.mark.parametrize("seed", range(60))
def test_products(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    lead = tuple(int(n) for n in rng.integers(1, 4, size=int(rng.integers(0, 3))))
    rows, inner, outer = (int(n) for n in rng.choice([1, 2, 3, 7, 70], size=3))
    a, b = ((*lead, rows, n) for n in (inner, outer))
    batched = tuple(n if rng.integers(2) else 1 for n in lead) if lead and rng.integers(2) else ()
    matrix = weights(*batched, inner, outer, seed=seed, zeros=float(rng.choice([0, 0.01, 0.6, 1])),
                     dtype=rng.choice([torch.float32, torch.float64, torch.bfloat16]))  # fmt: skip
    if rng.integers(2):
        matrix = matrix.transpose(-1, -2).contiguous().transpose(-1, -2)
    source = operand(a, 0, seed, SIDES[seed % 4])
    target = operand(b, source.numel, seed, SIDES[seed // 4 % 4])
    kind = rng.integers(4)
    if kind == 0:
        op = Matmul(source, target)
    elif kind == 1:
        op = Matmul(source, target, pattern=matrix != 0)
    else:
        op = Matmul(source, target, WeightRef(("w",), matrix, kind == 2), threshold=float(rng.choice([0, 0.5])))
    check(made(op, slots=source.numel + target.numel), monkeypatch)


@pytest.mark.parametrize("seed", range(40))
def test_windows_lists_and_identities(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, size=int(rng.integers(1, 5))))
    axes = [
        None if rng.integers(2) else torch.rand(int(rng.integers(1, 5)), n, generator=generator) < 0.6 for n in shape
    ]
    after = tuple(n if m is None else m.shape[0] for n, m in zip(shape, axes, strict=True))
    a = operand(shape, 0, seed, SIDES[seed % 4])
    b = operand(after, a.numel, seed, SIDES[seed // 4 % 4])
    c = operand(shape, a.numel + b.numel, seed, SIDES[seed // 16 % 4])
    same_shape = Identity(a, c)
    same_shape.fused = torch.rand(shape, generator=generator) < 0.4
    count = int(rng.integers(0, 40))
    rows, cols = (torch.randint(side.numel, (count,), generator=generator) for side in (a, b))
    ref = WeightRef(("s",), weights(count, seed=seed, zeros=0.3), bool(rng.integers(3)))
    ops = [Separable(a, b, axes), same_shape, Sparse(a, b, rows, cols, ref), Sparse(b, c, cols, cols % c.numel)]
    check(made(*ops, slots=a.numel + b.numel + c.numel), monkeypatch)


class Odd(Identity):
    """An operator of a plugin: a class that the compiled builder does not know."""


def test_operators_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operand((2, 3), 0, 0, "strided"), operand((2, 3), 6, 0, "shuffled")
    op = Odd(a, b)
    graph = made(op, slots=12)
    check(graph, monkeypatch)
    assert graph.to_csr().num_edges == 6
    graph.operators[0] = twin = Odd(a, b)
    twin.weight = WeightRef(("w",), torch.ones(6))
    with pytest.raises(StructureError, match="does not say which stored weight"):
        graph.to_csr(weights="index")


# -- graphs


class Residual(nn.Module):
    """A sum whose parts fuse, beside an edge that runs parallel to a weight, and a part that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        y = h + self.b(torch.relu(h))
        return y * 2 + self.c(y)


def test_fused_sums_and_parallel_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build_graph(Residual(), r(1, 3))
    assert graph.parent is not None
    assert graph.num_parallel_edges
    check(graph, monkeypatch)


def test_dead_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True).eval()

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]

    check(build_graph(Causal(), r(1, 5, 4)), monkeypatch)


def test_weights_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    graph = build_graph(model, torch.empty(1, 3, 4, 4, device="meta"))
    check(graph, monkeypatch)
    csr = graph.to_csr(weights=True)
    assert csr.weights is not None
    assert set(csr.weights.tolist()) == {1.0}
    assert len(set(graph.to_csr(weights="index").weights.tolist())) == graph.num_weights  # type: ignore[union-attr]


def test_graphs_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    for seed in range(20):
        given: Any = nx.gnp_random_graph(12, 0.3, seed=seed, directed=bool(seed % 2))
        given = nx.MultiDiGraph(given)
        given.add_edges_from((u, v) for u, v in list(given.edges())[:3])
        for u, v, k in given.edges(keys=True):
            if rng.random() < 0.5:
                given[u][v][k]["weight"] = float(rng.normal())
        graph = StructureGraph.from_networkx(given)
        check(graph, monkeypatch)
        assert graph.num_edges == given.number_of_edges()


def test_no_edges_and_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    check(build_graph(nn.Identity(), r(1, 3)), monkeypatch)
    nothing = StructureGraph.from_networkx(nx.DiGraph())
    check(nothing, monkeypatch)
    assert nothing.to_csr().indptr.tolist() == [0]
    assert nothing.to_igraph().vcount() == 0


# -- exports


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_exports_have_the_same_edges(seed: int) -> None:
    model, x = random_net(seed)
    graph = build_graph(model, x)
    edges = brute(graph)
    pairs = [edge[:2] for edge in edges]
    whole, bare = graph.to_igraph(), graph.to_igraph(weights=False, attributes=False)
    assert whole.get_edgelist() == bare.get_edgelist() == pairs
    assert equal(whole.es["weight"], [w for *_, w in edges])
    assert (bare.vs.attributes(), bare.es.attributes()) == ([], [])
    other = graph.to_networkx()
    assert other.is_multigraph() == bool(graph.num_parallel_edges)
    assert equal(sorted(other.edges(data="weight", default=0)), sorted((u, v, 0 if w != w else w) for u, v, w in edges))
    assert [dict(data, id=node) for node, data in other.nodes(data=True)] == graph.node_table()
    expected = np.zeros((graph.num_nodes, graph.num_nodes))
    for u, v, w in edges:
        expected[u, v] += 1 if w != w else w
    assert np.allclose(graph.to_scipy(weights=True).toarray(), expected)
    counts = np.zeros_like(expected)
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    assert np.array_equal(graph.to_scipy().toarray(), counts)
    assert graph.to_scipy().has_canonical_format


@pytest.mark.parametrize("seed", range(12))
def test_node_table(seed: int) -> None:
    """Columns by whole spaces are what one finds node by node."""
    model, x = random_net(seed)
    units = build_graph(model, x, attention="units")
    for graph in (units, units.quotient("first")):
        node, source, output = (v.tolist() for v in (graph.is_node, graph.is_source, graph.is_output))
        rows = []
        for space in graph.spaces:
            for k, index in enumerate(np.ndindex(*space.shape)):
                slot = space.offset + k
                if node[slot]:
                    label = f"{space.name}[{','.join(map(str, index))}]"
                    rows.append({
                        "id": len(rows), "label": space.node_names[k] if space.node_names else label,
                        "space": space.name, "path": space.path, "kind": space.kind, "index": index,
                        "role": "input" if source[slot] else "output" if output[slot] else "hidden",
                        "is_output": output[slot],
                    })  # fmt: skip
        assert graph.node_table() == rows
        assert {len(column) for column in node_columns(graph).values()} == {graph.num_nodes}


# -- limits


def test_what_does_not_fit_is_refused_with_an_estimate() -> None:
    graph = build_graph(nn.Linear(100, 100), r(1, 100))
    with pytest.raises(CapacityError, match=r"10,000 edges.*GiB.*max_memory"):
        graph.to_csr(max_memory=1000)
    assert graph.to_csr(max_memory=graph.explicit_bytes()).num_edges == 10_000


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"'float16'.*'float32'"):
        build_graph(nn.Linear(2, 2), r(1, 2)).to_csr(weights="float16")


def test_more_nodes_than_columns_can_say() -> None:
    class Vast(StructureGraph):
        num_nodes = MAX_NODES + 1  # type: ignore[assignment]

    graph = Vast("zeroth", "vast", [], [], torch.zeros(0, dtype=torch.bool))
    with pytest.raises(CapacityError, match=r"2,147,483,648 nodes.*32-bit"):
        build_csr(graph)
    with pytest.raises(CapacityError, match="32-bit"):
        build_edge_list(graph)


@native
def test_rows_hold_four_bytes_an_edge_and_eight_a_node() -> None:
    graph = build_graph(nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10)), r(1, 300))
    csr = graph.to_csr()
    assert csr.nbytes == 4 * csr.num_edges + 8 * (csr.num_nodes + 1)
    assert graph.to_csr(weights="float32").nbytes == csr.nbytes + 4 * csr.num_edges


@native
def test_the_compiled_builder_checks_what_it_is_given() -> None:
    module = _native.load()
    assert module is not None
    ends = np.arange(4, dtype=np.int32)
    start = np.zeros(5, np.int64)
    for source, rows in ((ends, np.array([0, 9])), (ends, np.array([-1, 0])), (ends + 9, np.array([0, 1]))):
        with pytest.raises(ValueError):
            module.csr_count_list(rows, np.array([0, 1]), source, ends, start)
    geometry = {
        "batch": 1, "source_batch": 0, "target_batch": 0, "channels": 4, "group_in": 4, "group_out": 4,
        "source_channel": 1, "target_channel": 1, "taps": 1, "mirrored": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="beyond"):
        module.csr_count_window({**geometry, "group_out": 5}, [], None, ends, ends, start)
    with pytest.raises(ValueError, match="mask"):
        module.csr_count_window(geometry, [], np.zeros(3, np.uint64), ends, ends, start)
    with pytest.raises(ValueError, match="not there"):
        places = (1, 4, 0, np.zeros(1, np.int64))
        module.csr_pack_f32(geometry, np.ones(15, np.float32), places, 0.0)
    with pytest.raises(ValueError, match="torn"):
        module.csr_transpose(np.array([0, 2, 1], np.int64), np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="more edges than were counted"):
        module.csr_fill_list_f32(None, None, None, 0.0, ends, ends, start.copy(), np.zeros(0, np.int32), None)
