"""The first order stays on the stored weights: it equals the graph that is written down, and holds no edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator.panel import METRICS
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Channels, Matmul, Sparse, WeightRef
from deepstruct.testing import build_graph
from tests.orders.test_quotient import check_tower
from tests.random_nets import random_net
from tests.structure import cases_moves  # noqa: F401 - adds its cases to CASES
from tests.structure.cases import CASES


def written_down(graph: StructureGraph) -> StructureGraph:
    """The same graph with a list of pairs in the place of every operator on stored weights."""
    operators = []
    for op in graph.operators:
        if isinstance(op, Channels):
            pieces = list(op.edges())
            rows, cols, weight = (torch.cat([piece[k] for piece in pieces]) for k in range(3))
            made = Sparse(op.source, op.target, rows, cols, WeightRef(op.key, weight))
            made.name = op.name
            operators.append(made)
        else:
            operators.append(op)
    return StructureGraph(
        graph.order, graph.name, graph.spaces, operators, graph.is_output, None, graph.num_parameters,
        is_dag=graph.is_dag, origin=graph.origin, context=graph.context,
    )  # fmt: skip


def assert_same_metrics(graph: StructureGraph, other: StructureGraph) -> None:
    views = [OperatorView(g, AnalysisContext()) for g in (graph, other)]
    for metric in METRICS:
        if graph.order not in metric.orders or metric.name == "weights":
            continue
        found = []
        for view in views:
            try:
                value = metric.compute(view)
            except MetricError as error:
                value = str(error)
            found.append(getattr(value, "value", value))
        if isinstance(found[0], (str, bool)) or isinstance(found[1], str):
            assert found[0] == found[1], metric.name
        else:
            np.testing.assert_allclose(np.asarray(found[0]), np.asarray(found[1]), rtol=1e-9, err_msg=metric.name)


def dense_net(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A random net whose weights are all edges, but for a few."""
    model, x = random_net(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.where(p == 0, torch.rand_like(p) + 0.1, p))
    return model, x


@pytest.mark.parametrize("seed", range(40))
def test_every_metric_is_that_of_the_graph_written_down(seed):
    graph = deepstruct.extract(*dense_net(seed), order="first")
    assert any(isinstance(op, Channels) for op in graph.operators)
    assert_same_metrics(graph, written_down(graph))


@pytest.mark.parametrize("seed", range(40))
def test_orders_of_dense_nets_by_brute_force(seed):
    check_tower(deepstruct.extract(*dense_net(seed)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_by_brute_force(case):
    graph = build_graph(case.model(), case.inputs, **case.settings)
    if graph.num_nodes > 1 and graph.num_edges < 20_000:
        check_tower(graph)


def with_holes(count: int) -> nn.Sequential:
    """A convolution and a linear layer after it, each with a few weights that are zero."""
    model = nn.Sequential(nn.Conv2d(8, 40, 1), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 4, 30))
    with torch.no_grad():
        model[0].weight.view(-1)[:count] = 0
        model[3].weight[3, :4] = 0  # all that unit 3 reads of channel 0
        model[3].weight[5, 8:11] = 0  # a part of what unit 5 reads of channel 2
    return model


def test_a_few_zero_weights_are_holes():
    graph = deepstruct.extract(with_holes(1), torch.randn(1, 8, 2, 2))
    check_tower(graph)
    first = graph.quotient("first")
    assert [type(op) for op in first.operators] == [Channels, Channels]
    assert first.num_edges == 8 * 40 - 1 + 40 * 30 - 1
    assert_same_metrics(first, written_down(first))


def test_many_zero_weights_are_a_matrix():
    first = deepstruct.extract(with_holes(60), torch.randn(1, 8, 2, 2), order="first")
    assert [type(op) for op in first.operators] == [Matmul, Channels]
    assert first.num_edges == 8 * 40 - 60 + 40 * 30 - 1


class Twice(nn.Module):
    """Two layers into one sum, the same layer at several positions, and two halves of a space."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(6, 5)
        self.low, self.high, self.wide = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.one(x) + self.two(x))
        return self.low(h[..., :2]) + self.high(h[..., 2:]), h @ self.wide.weight.T + self.low(h[..., 1:3])


def test_several_weights_between_the_same_channels():
    model = Twice()
    graph = deepstruct.extract(model, torch.randn(1, 3, 6))
    check_tower(graph)
    first = graph.quotient("first")
    assert first.num_parallel_edges == 0
    joined = [op for op in first.operators if isinstance(op, Channels) and len(op.slices) == 2]
    assert len(joined) == 1, "both layers read the same channels into the same sum"
    amounts = 3 * (model.one.weight.abs() + model.two.weight.abs()).T
    assert joined[0].weight.tensor == pytest.approx(amounts.detach().numpy(), rel=1e-6)
    assert_same_metrics(first, written_down(first))


@pytest.mark.parametrize("mode", ["pattern", "abs", "square", "signed"])
def test_forward_and_backward_are_adjoint(mode):
    first = deepstruct.extract(with_holes(1), torch.randn(1, 8, 2, 2), order="first")
    for op in first.operators:
        x, y = torch.rand(op.source.shape, dtype=torch.float64), torch.rand(op.target.shape, dtype=torch.float64)
        ahead, back = (op.forward(x, mode) * y).sum(), (op.backward(y, mode) * x).sum()
        assert float(ahead) == pytest.approx(float(back))
        (rows, cols, weight), = op.edges()
        weight = {"pattern": torch.ones_like(weight), "square": weight.square()}.get(mode, weight)
        assert float(ahead) == pytest.approx(float((x[0, rows] * weight * y[0, cols]).sum()))


def test_self_loops_do_not_hang_on_the_way_up():
    """A node has one when edges of zeroth order run within it, whatever orders lie between."""
    models = [
        (nn.RNN(2, 3, batch_first=True), torch.randn(1, 4, 2)),
        (nn.LSTM(2, 3, batch_first=True), torch.randn(1, 3, 2)),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), torch.randn(1, 3)),
        *(random_net(seed) for seed in range(30)),
    ]
    some = False
    for model, x in models:
        graph = deepstruct.extract(model, x)
        first = graph.quotient("first")
        direct, by_steps = graph.quotient("second"), first.quotient("second")
        assert direct.num_self_loops == by_steps.num_self_loops
        assert direct.quotient("third").num_self_loops == by_steps.quotient("third").num_self_loops
        assert graph.quotient("third").num_self_loops == first.quotient("third").num_self_loops
        some |= direct.num_self_loops > first.num_self_loops > 0 or 0 < direct.num_self_loops < first.num_self_loops
        edges = graph.edge_list()
        labels = edges.space
        within = labels[edges.source] == labels[edges.target]
        assert direct.num_self_loops == len(np.unique(labels[edges.source[within]]))
    assert some


class Decoder(nn.Module):
    """Causal self-attention and a gated layer, as language models have them."""

    def __init__(self, width: int, inner: int, heads: int, layers: int, words: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(a, b, bias=False) for name, (a, b) in {
                "q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width),
                "gate": (width, inner), "up": (width, inner), "down": (inner, width),
            }.items()})
            for _ in range(layers)
        )  # fmt: skip
        self.head = nn.Linear(width, words, bias=False)
        self.heads = heads

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        for layer in self.layers:
            q, k, v = (layer[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv")
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["o"](mixed.transpose(1, 2).flatten(-2))
            x = x + layer["down"](nn.functional.silu(layer["gate"](x)) * layer["up"](x))
        return self.head(x)


SIZES = {"width": 8, "inner": 12, "heads": 2, "layers": 2, "words": 20}


@pytest.mark.parametrize("order", ["zeroth", "first", "second", "third"])
def test_weights_without_values_make_the_same_graph(order):
    real = Decoder(**SIZES)
    with torch.no_grad():
        for p in real.parameters():
            p.add_(p.sign())  # nowhere zero
    with torch.device("meta"):
        fake = Decoder(**SIZES)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    graphs = [deepstruct.extract(model, ids, order=order) for model in (real, fake)]
    lists = [graph.edge_list() for graph in graphs]
    assert np.array_equal(lists[0].source, lists[1].source)
    assert np.array_equal(lists[0].target, lists[1].target)
    assert graphs[0].num_weight_edges == graphs[1].num_weight_edges
    views = [OperatorView(graph, AnalysisContext()) for graph in graphs]
    for metric in METRICS:
        if order not in metric.orders or metric.name.startswith(("strength", "path_norm")):
            continue
        values = [np.asarray(metric.compute(view), dtype=np.float64) for view in views]
        assert np.array_equal(*values), metric.name
    with pytest.raises(MetricError, match="no values"):
        _ = views[1].strength


def test_a_large_model_without_values_takes_no_memory_of_its_weights():
    """A billion weights: what is held grows with channels and units, by far less than a byte per weight."""
    import resource

    with torch.device("meta"):
        model = Decoder(width=2048, inner=8192, heads=16, layers=14, words=32000)
    weights = sum(p.numel() for p in model.parameters())
    assert weights > 1_000_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    graph = deepstruct.extract(model, torch.tensor([[1, 2, 3, 4]]))
    first = graph.quotient("first")
    third = first.quotient("second").quotient("third")
    per_layer = 4 * 2048**2 + 3 * 2048 * 8192
    assert first.num_weight_edges == 14 * per_layer + 2048 * 32000
    assert third.num_edges > 0
    asked = ["edges", "out_degree_mean", "path_count_log10", "transitivity", "strength_mean"]
    report = deepstruct.analyze(first, metrics=asked)
    assert report["first"]["edges"] == first.num_edges
    assert math.isfinite(report["first"]["path_count_log10"])
    skipped = {s.name: s for s in report.skipped}
    assert "max_memory" in skipped["transitivity"].reason, "explicit metrics are left out, with an estimate"
    assert "no values" in skipped["strength_mean"].reason
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert growth < weights // 4


def test_fake_tensors_are_weights_without_values_too():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = Decoder(**SIZES)
    with torch.device("meta"):
        meta = Decoder(**SIZES)
    ids = torch.tensor([[3, 1, 4]])
    for order in ("zeroth", "first", "second"):
        mine, other = (deepstruct.extract(model, ids, order=order).edge_list() for model in (fake, meta))
        assert np.array_equal(mine.source, other.source)
        assert np.array_equal(mine.target, other.target)


def test_parts_of_a_parameter_without_values_count_once():
    """Two projections that read thirds of one stored matrix: the weights are those of the matrix."""

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.mix(x, y, y, need_weights=False)[0]

    with torch.device("meta"):
        fake = Cross().eval()
    example = (torch.randn(1, 3, 8), torch.randn(1, 4, 8))
    mine, real = (deepstruct.extract(model, example) for model in (fake, Cross().eval()))
    assert mine.num_weights == real.num_weights == 4 * 8 * 8
    assert mine.num_edges == real.num_edges


def test_a_buffer_without_values_is_told():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.zeros(3))
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x * self.scale)

    with torch.device("meta"):
        fake = Scaled()
    graph = deepstruct.extract(fake, torch.randn(1, 3))
    assert graph.num_edges == 6
    assert any("scale" in note and "without values" in note for note in graph.notes)
