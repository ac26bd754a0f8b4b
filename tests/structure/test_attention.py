"""Implicit attention scores are the same graph as scores with a slot each: in every count, list, order and metric."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import deepstruct
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.analyzers.select import analyze_graph
from deepstruct.engine import BOOLEAN, LONGEST, SHORTEST, Counting, Modular, sweep
from deepstruct.engine.adjacency import adjacency_action
from deepstruct.engine.semirings_extreme import Extreme
from deepstruct.errors import CapacityError, InputError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.plugin.current import get_host
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.mask import Mask
from deepstruct.structure.scores import Scores
from deepstruct.testing import build_graph
from tests.structure.attention_nets import EXPLICIT, NETS, Module, build, r

ORDERS: list[tuple[str, dict[str, Any]]] = [
    ("zeroth", {}), ("first", {}), ("first", {"unit": "head"}), ("second", {}), ("third", {}),
]  # fmt: skip


SEMIRINGS: list[tuple[Any, Any]] = [
    (BOOLEAN, "or"), (Counting(), None), (Modular(101), None), (LONGEST, "max"), (SHORTEST, "min"),
    (Extreme(True, "abs"), "max"), (Extreme(False, "abs"), "min"),
]  # fmt: skip
PANEL = None  # the standard panel at every order; the whole catalogue on a few nets
EVERYTHING = ("causal, fused", "head mask, add, eager", "blind row mask, fill, fused", "class token, eager",
              "scores added")  # fmt: skip


def pair(model: nn.Module, inputs: Any) -> tuple[StructureGraph, StructureGraph]:
    """The graph with implicit scores and the one with a slot for each."""
    implicit, units = (build_graph(model, inputs, attention=kind) for kind in ("implicit", "units"))
    assert not units.score_spaces
    return implicit, units


def same_lists(a: StructureGraph, b: StructureGraph) -> None:
    assert (a.num_nodes, a.num_edges, a.num_weight_edges) == (b.num_nodes, b.num_edges, b.num_weight_edges)
    assert [a.nodes_in(s) for s in a.spaces] == [b.nodes_in(s) for s in b.spaces]
    first, second = a.edge_list(), b.edge_list()
    for name in ("source", "target", "inputs", "outputs", "space"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert np.array_equal(first.weight, second.weight, equal_nan=True)
    assert a.node_table() == b.node_table()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, str) and isinstance(b, str):  # distributions
        return a == b or same(json.loads(a), json.loads(b))
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype.kind in "iubO" and y.dtype.kind in "iubO":
        return np.array_equal(x, y)
    return x.shape == y.shape and np.allclose(x.astype(float), y.astype(float), rtol=1e-9, atol=1e-12, equal_nan=True)


def measured(graph: StructureGraph, metrics: Any = "all") -> tuple[dict[str, Any], dict[str, str]]:
    values, skipped = analyze_graph(graph, metrics, "operator", AnalysisContext(), registry=get_host().registry())
    return {v.name: v.value for v in values}, {s.name: s.reason for s in skipped}


def same_metrics(a: StructureGraph, b: StructureGraph, metrics: Any = "all") -> int:
    (ours, ours_missing), (theirs, theirs_missing) = measured(a, metrics), measured(b, metrics)
    wants_units = {name for name, reason in ours_missing.items() if 'attention="units"' in reason}
    assert ours_missing.keys() - wants_units == theirs_missing.keys() - wants_units
    assert ours.keys() == theirs.keys() - wants_units
    for name, value in ours.items():
        assert same(value, theirs[name]), (name, value, theirs[name])
    return len(ours)


@pytest.mark.parametrize("name", NETS)
def test_lists_orders_and_metrics_are_those_of_explicit_scores(name: str) -> None:
    model, inputs = build(name)
    implicit, units = pair(model, inputs)
    assert bool(implicit.score_spaces) == (name not in EXPLICIT)
    for order, options in ORDERS:
        a, b = (implicit, units) if order == "zeroth" else (g.quotient(order, **options) for g in (implicit, units))
        same_lists(a, b)
        assert same_metrics(a, b, "all" if order == "zeroth" and name in EVERYTHING else PANEL) > 20


@pytest.mark.parametrize("name", [n for n in NETS if n not in EXPLICIT and "eager" in n])
def test_eager_and_fused_are_one_graph(name: str) -> None:
    other = name.replace("eager", "fused")
    if other not in NETS:
        pytest.skip("there is no fused form of this mask")
    eager, fused = (build_graph(*build(n)) for n in (name, other))
    first, second = eager.edge_list(), fused.edge_list()
    assert np.array_equal(first.source, second.source)
    assert np.array_equal(first.target, second.target)
    (ours, _), (theirs, _) = measured(eager, None), measured(fused, None)
    for key, value in ours.items():
        if not key.startswith("layer_"):
            assert same(value, theirs[key]), key


@pytest.mark.parametrize("name", ["causal, fused", "head mask, add, eager", "transformer", "windows", "vit, fused",
                                  "class token twice, eager", "grouped queries in pairs, fused"])  # fmt: skip
def test_sweeps_from_any_nodes_give_the_values_of_explicit_scores(name: str) -> None:
    """Starting anywhere but at a score, in both directions, over every semiring."""
    model, inputs = build(name)
    implicit, units = pair(model, inputs)
    rng = np.random.default_rng(0)
    plain = np.flatnonzero(~np.isin(implicit.edge_list().space, [s.index for s in implicit.score_spaces]))
    for _ in range(3):
        chosen = rng.choice(plain, 6, replace=False)
        for semiring, join in SEMIRINGS:
            for transpose in (False, True):
                found = []
                for graph in (implicit, units):
                    length = join in ("max", "min")
                    nothing = semiring.zero if isinstance(semiring, Extreme) else -1 if length else 0
                    start = torch.full((graph.num_slots,), nothing, dtype=semiring.dtype)
                    ids = graph.node_ids()
                    start[torch.isin(ids, torch.from_numpy(chosen))] = 0 if length else 1
                    slots = sweep(graph, start, semiring, transpose=transpose)
                    values = graph.slots_to_nodes(slots > 0 if join == "or" else slots, join)
                    found.append(values % 101 if isinstance(semiring, Modular) else values)
                assert same(*found), (semiring, transpose)


@pytest.mark.parametrize("name", ["causal, eager", "blind row mask, fill, fused", "decoder layer", "gpt, fused"])
def test_adjacency_products_are_closed_on_carriers(name: str) -> None:
    """Repeated products with A and A', sums of both, totals and inner products."""
    implicit, units = pair(*build(name))
    results = []
    for graph in (implicit, units):
        x = graph.ones()
        values = []
        for step in range(4):
            x = adjacency_action(graph, x, transpose=bool(step % 2)) + 0.5 * adjacency_action(graph, x)
            values += [graph.total(x), graph.dot(x, graph.ones()), graph.dot(x, x)]
        values.append(graph.total(graph.ones()))
        results.append((np.array(values), graph.slots_to_nodes(x)))
    assert np.allclose(results[0][0], results[1][0], rtol=1e-12)
    assert np.allclose(results[0][1], results[1][1], rtol=1e-12)


def test_values_by_space_have_the_shape_of_the_units() -> None:
    implicit, units = pair(*build("causal, fused"))
    values = np.arange(implicit.num_nodes, dtype=float)
    a, b = implicit.node_values_by_space(values), units.node_values_by_space(values)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)


def test_what_needs_single_scores_says_how_to_get_them() -> None:
    implicit, units = pair(*build("causal, fused"))
    with pytest.raises(CapacityError, match=r'the thing needs a value for each of the 30 .*attention="units"'):
        OperatorView(implicit, AnalysisContext()).need_explicit_units("the thing")
    OperatorView(units, AnalysisContext()).need_explicit_units("the thing")


def test_the_choice_is_checked_and_told() -> None:
    model, inputs = build("causal, fused")
    report = deepstruct.analyze(model, inputs, orders="zeroth", metrics=["nodes"], attention="units")
    assert "slot of its own" in report.conventions["attention"]
    assert "rows and columns" in deepstruct.extract(model, inputs).conventions["attention"]
    with pytest.raises(InputError, match="attention must be"):
        deepstruct.extract(model, inputs, attention="dense")


def test_memory_is_that_of_rows_and_columns() -> None:
    """A thousand tokens: a million scores per head, two thousand slots."""

    class Long(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    graph = build_graph(Long(), r(1, 2, 1024, 2))
    assert graph.num_nodes == 2 * 1024 * 1025 // 2 + 2 * (2 * 1024 * 2)
    assert graph.num_slots == 2 * (1024 + 1024) + 2 * (2 * 1024 * 2)
    assert graph.num_edges == 2 * (1024 * 1025 // 2) * (2 + 2 + 2 + 2)
    view = OperatorView(graph, AnalysisContext())
    assert view.effective_by_space == {s.name: graph.nodes_in(s) for s in graph.spaces}
    values, counts = view.degree_counts("in_degree")
    assert dict(zip(values.tolist(), counts.tolist(), strict=True))[4] >= 2 * (1024 * 1025 // 2)


# -- the parts


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**36 - 1), st.booleans(), st.integers(0, 2**31))
def test_masks_multiply_like_matrices(inner: int, outer: int, bits: int, stairs: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    if stairs:
        ends = torch.randint(0, inner + 1, (outer,), generator=generator).sort().values
        matrix = torch.arange(inner)[:, None] < ends
        matrix = matrix.T if bits % 2 else matrix
    else:
        matrix = torch.tensor([bits >> k & 1 for k in range(inner * outer)], dtype=torch.bool).view(inner, outer)
    mask = Mask(matrix.expand(3, *matrix.shape))
    assert mask.matrix.dim() == 2
    x = torch.randn(3, 2, matrix.shape[0], dtype=torch.float64, generator=generator)
    y = torch.randn(3, 2, matrix.shape[1], dtype=torch.float64, generator=generator)
    assert torch.allclose(mask.forward(x), x @ matrix.double())
    assert torch.allclose(mask.backward(y), y @ matrix.double().T)


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.sampled_from(["none", "shared", "heads", "causal"]),
    st.integers(0, 2**31), st.sampled_from([1, 2, 50]),
)  # fmt: skip
def test_carriers_stand_for_units(heads: int, rows: int, columns: int, kind: str, seed: int, values: int) -> None:
    """Sums, inner products, blocks and joins against the units written down."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"none": (), "shared": (rows, columns), "heads": (heads, rows, columns), "causal": (rows, columns)}[kind]
    matrix = torch.rand(shape, generator=generator) < 0.6
    if kind == "causal":
        matrix = torch.ones(rows, columns, dtype=torch.bool).tril()
    scores = Scores((heads,), rows, columns, None if kind == "none" else Mask(matrix))
    x, y = torch.randint(-values, values + 1, (2, heads, rows + columns), generator=generator).double()
    keep = scores.kept()
    units = [v[:, :rows, None] + v[:, None, rows:] for v in (x, y)]
    assert scores.num_units == int(keep.sum())
    assert scores.total(x) == float(units[0][keep].sum())
    assert scores.dot(x, y) == float((units[0] * units[1])[keep].sum())
    assert torch.equal(scores.sum_of_rows(x), (units[0] * keep).sum(-1))
    assert torch.equal(scores.sum_of_columns(x), (units[0] * keep).sum(-2))
    assert torch.equal(scores.values(x, "sum"), units[0][keep])
    either = (x > 0)[:, :rows, None] | (x > 0)[:, None, rows:]
    assert torch.equal(scores.marked_in_rows((x > 0).double()), (either & keep).sum(-1).double())
    assert torch.equal(scores.marked_in_columns((x > 0).double()), (either & keep).sum(-2).double())
    expected: dict[Any, int] = {}
    for key in zip(units[0][keep].tolist(), either[keep].tolist(), strict=True):
        expected[key] = expected.get(key, 0) + 1
    found: dict[Any, int] = {}
    for (a, b), counts in scores.blocks([x, x > 0], ["sum", "or"]):
        amounts = [1] * len(a) if counts is None else counts.tolist()
        for value, flag, amount in zip(a.tolist(), b.tolist(), amounts, strict=True):
            found[value, flag] = found.get((value, flag), 0) + amount
    assert found == expected


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
    st.integers(0, 2**16 - 1), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_random_shapes_and_masks(
    heads: int, rows: int, columns: int, width: int, features: int, bits: int, masked: bool, by_hand: bool, mixed: bool
) -> None:
    mask = torch.tensor([bits >> k & 1 for k in range(rows * columns)], dtype=torch.bool).view(rows, columns)

    class Net(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if mixed:  # a token mixer before it: the channels of the keys run along the tokens
                k = torch.tanh(k.mT @ torch.ones(columns, columns)).mT
            if not by_hand:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if masked else None)
            s = q @ k.mT
            return (s.masked_fill(~mask, float("-inf")) if masked else s).softmax(-1) @ v

    inputs = (r(1, heads, rows, width), r(1, heads, columns, width, seed=1), r(1, heads, columns, features, seed=2))
    implicit, units = pair(Net(), inputs)
    same_metrics(implicit, units, None)
    for order, options in ORDERS:
        a, b = (implicit, units) if order == "zeroth" else (g.quotient(order, **options) for g in (implicit, units))
        same_lists(a, b)


@pytest.mark.parametrize("how", ["batch first", "time first", "no batch"])
def test_weights_that_nobody_reads_are_no_units(how: str) -> None:
    """Averages of attention weights that the caller drops leave no trace; returned ones are outputs."""
    x, first = {"batch first": r(1, 5, 6), "time first": r(5, 1, 6), "no batch": r(5, 6)}[how], how == "batch first"
    found = {}
    for name, options in (("off", {}), ("dropped", {"weights": True}), ("returned", {"returned": True})):
        torch.manual_seed(0)
        graph = build_graph(Module(batch_first=first, **options), x)
        found[name] = (graph.num_nodes, graph.num_edges, len(graph.output_nodes()), bool(graph.score_spaces))
    assert found["off"] == found["dropped"]
    assert found["off"][3]
    assert found["returned"][0] == found["off"][0] + 25
    assert found["returned"][2] == found["off"][2] + 25
    assert not found["returned"][3]


PATHS = ["path_length_counts", "path_length_distribution", "weighted_shortest_path", "weighted_longest_path",
         "strongest_path_log10", "weakest_path_log10", "widest_path", "layer_edge_path_centrality"]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NETS if name not in EXPLICIT])
def test_lengths_and_best_paths_are_those_of_explicit_scores(name: str) -> None:
    implicit, units = pair(*build(name))
    (ours, missing), (theirs, _) = measured(implicit, PATHS), measured(units, PATHS)
    assert not any('attention="units"' in reason for reason in missing.values())
    assert ours.keys() == theirs.keys()
    assert ours.keys() | missing.keys() == set(PATHS)
    for metric, value in ours.items():
        assert same(value, theirs[metric]), metric
