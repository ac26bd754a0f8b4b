"""Every built-in rule against the derivative of a layer that uses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.ops import aten

from deepstruct.errors import ModelStateError, StructureError, UnknownOpError
from deepstruct.structure.rules import deepstruct_rules
from deepstruct.structure.settings import Settings
from deepstruct.testing import build_graph, check_containment, check_equality, count_paths
from deepstruct.testing.build import build_from_trace
from deepstruct.trace import trace

from . import cases_moves  # noqa: F401 - adds its cases to CASES
from .cases import CASES, Case, Fn, r

BY_NAME = {case.name: case for case in CASES}

# rules that no layer reaches on a CPU, and the tests that reach them
ELSEWHERE = {
    "op cudnn_batch_norm": "test_kernels_of_other_devices",
    "op miopen_batch_norm": "test_kernels_of_other_devices",
    "op cudnn_grid_sampler": "test_kernels_of_other_devices",
    "op _batch_norm_with_update": "test_batch_norm_in_training_is_refused",
    "module deepstruct.sparse.masked:MaskedLinearLayer": "test_masked_linear_layers",
    "module deepstruct.sparse.linear:SparseLinear": "test_masked_linear_layers",
    "module deepstruct.sparse.conv:MaskedConv1d": "test_masked_convolutions",
    "module deepstruct.sparse.conv:MaskedConv2d": "test_masked_convolutions",
    "module deepstruct.sparse.dag:DagLinear": "test_networks_over_graphs",
}
_seen: set[str] = set()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case(case: Case) -> None:
    if not case.replay:
        graph = build_graph(case.model(), case.inputs, **case.settings)
    else:
        check = check_equality if case.equal else check_containment
        graph = check(case.model(), case.inputs, **case.settings)
    edges = graph.edge_list()
    assert edges.num_edges == graph.num_edges
    assert edges.num_nodes == graph.num_nodes
    assert not graph.unknown
    _seen.update(graph.providers)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(CASES)
    rules = [rule.name for rule in deepstruct_rules()]
    assert len(set(rules)) == len(rules)


def test_every_rule_has_a_case() -> None:
    """A rule that no case exercises is a rule that nobody knows to be right."""
    missing = {rule.name for rule in deepstruct_rules()} - set(_seen) - set(ELSEWHERE)
    for case in CASES:
        if not missing:
            break
        # run alone, or beside other workers that saw the rest: find out again
        missing -= set(build_graph(case.model(), case.inputs, **case.settings).providers)
    assert not missing
    assert all(test in globals() for test in ELSEWHERE.values())


def test_case_names_say_why_they_are_not_equal() -> None:
    assert all(case.why for case in CASES if not case.equal)


# -- what the derivative cannot say -------------------------------------------------------------------


class BatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def test_batch_norm_in_training_is_refused() -> None:
    with pytest.raises(ModelStateError, match=r"'norm'.*training mode.*model\.eval\(\)"):
        build_graph(BatchNorm().train(), r(2, 1, 4, 4))
    update = Fn(
        lambda x, m, v: aten._batch_norm_with_update.default(x, None, None, m, v, 0.1, 1e-5)[0], m=r(2), v=r(2) ** 2
    )
    with pytest.raises(ModelStateError, match="training mode"):
        build_graph(update, r(1, 2, 3))
    assert build_graph(BatchNorm().eval(), r(2, 1, 4, 4)).num_edges == 2 * 2 * 4 * 9


@pytest.mark.parametrize("name", ["cudnn_batch_norm", "miopen_batch_norm", "cudnn_grid_sampler"])
def test_kernels_of_other_devices(name: str) -> None:
    """The recorded operation of a GPU has the structure of the one of a CPU with the same arguments."""
    plain = "grid_sampler_2d" if name == "cudnn_grid_sampler" else "native_batch_norm"
    model = BY_NAME["grid_sample by the data"].model() if plain == "grid_sampler_2d" else BatchNorm().eval()
    inputs = (r(1, 2, 3, 3), r(1, 2, 2, 2)) if plain == "grid_sampler_2d" else (r(1, 1, 4, 4),)
    record = trace(model, inputs)
    found = [op for op in record.ops if op.name.strip("_").startswith(plain)]
    expected = build_from_trace(record, Settings())
    assert found
    for op in found:
        op.name = name
    graph = build_from_trace(record, Settings())
    assert (graph.num_nodes, graph.num_edges) == (expected.num_nodes, expected.num_edges)
    assert f"op {name}" in graph.providers


def test_an_unknown_op_is_an_error_that_says_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(3, 4), Wrapped())
    with pytest.raises(UnknownOpError) as caught:
        build_graph(model, r(1, 3))
    message = str(caught.value)
    for part in ("structure_tests", "mystery", "'1'", "(1, 4)", "deepstruct_rules", 'on_unknown="dense"'):
        assert part in message


def test_an_unknown_op_wired_all_to_all() -> None:
    graph = build_graph(nn.Sequential(nn.Linear(3, 4), Wrapped(), nn.Linear(4, 2)), r(1, 3), on_unknown="dense")
    assert graph.num_edges == 12 + 16 + 8
    assert graph.num_weight_edges == 20
    assert [path for _, path in graph.unknown] == ["1"]
    assert "mystery" in graph.unknown[0][0]


class Wrapped(nn.Module):
    """A layer around an operation that no rule knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.structure_tests.mystery(x)


@torch.library.custom_op("structure_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


@mystery.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_a_rule_that_fails_says_where() -> None:
    from deepstruct.plugin.current import use_host
    from deepstruct.plugin.host import Host
    from deepstruct.plugin.markers import hookimpl
    from deepstruct.structure.rules import Rule

    def broken(builder: Any, node: Any) -> Any:
        raise KeyError("axis")

    def misshapen(builder: Any, node: Any) -> Any:
        return builder.source((7,), "wrong")

    for apply, words in ((broken, ("KeyError", "axis")), (misshapen, ("(7,)", "(1, 4)"))):

        class Plugin:
            @hookimpl
            def deepstruct_rules(self, apply: Any = apply) -> list[Rule]:
                return [Rule("structure_tests::mystery", apply)]

        with use_host(Host(plugins=[("broken", Plugin())], entry_points=False)):
            with pytest.raises(StructureError) as caught:
                build_graph(nn.Sequential(nn.Linear(3, 4), Wrapped()), r(1, 3))
        for word in (*words, "mystery", "'1'"):
            assert word in str(caught.value)


def test_as_strided_scatter_replaces_what_it_writes() -> None:
    """Against finite differences, since the derivative of this op in PyTorch names elements that were replaced."""
    case = BY_NAME["as_strided_scatter"]
    model, (x, y) = case.model(), case.inputs
    base = model(x, y).reshape(-1)
    rows = []
    for inputs, which in (((x, y), 0), ((x, y), 1)):
        for k in range(inputs[which].numel()):
            moved = [t.clone() for t in inputs]
            moved[which].view(-1)[k] += 1
            rows.append(model(*moved).reshape(-1) != base)
    from deepstruct.testing import graph_support

    assert torch.equal(graph_support(build_graph(model, case.inputs)).matrix, torch.stack(rows).T)


def test_embedding_bags_have_a_source_per_position_and_feature() -> None:
    for name, bags, pairs in (("embedding bag", 2, 6), ("embedding bag offsets", 2, 4), ("embedding bag max", 1, 3)):
        graph = build_graph(BY_NAME[name].model(), BY_NAME[name].inputs)
        assert graph.num_nodes == pairs * 3 + bags * 3
        assert graph.num_structural_edges == graph.num_edges == pairs * 3
        assert len(graph.input_nodes()) == pairs * 3
    padded = nn.EmbeddingBag(7, 3, mode="sum", padding_idx=4)
    assert build_graph(padded, (torch.tensor([[1, 4, 2]]),)).num_edges == 2 * 3


def test_positions_of_maxima_are_control() -> None:
    """argmax cuts the path: a graph without edges is legal."""
    graph = build_graph(Fn(lambda x: x.argmax(1)), r(1, 4))
    assert (graph.num_nodes, graph.num_edges, len(graph.output_nodes())) == (4, 0, 0)
    assert any("does not depend on activations" in note for note in graph.notes)
    assert count_paths(graph) == 0


@pytest.mark.parametrize("how", ["at stored places", "in three dimensions", "to one"])
def test_fractional_pooling_reads_what_it_may_choose(how: str) -> None:
    """Over many draws of the input, every element of a window is its maximum at some time, and no other ever."""
    case = BY_NAME[f"fractional pooling {how}"]
    check_equality(case.model(), case.inputs, smooth=False, draws=150)


def test_fractional_pooling_by_chance_allows_every_draw() -> None:
    from deepstruct.structure.rules.window import fractional_starts

    model, (x,) = BY_NAME["fractional pooling by chance"].model(), BY_NAME["fractional pooling by chance"].inputs
    graph = build_graph(model, x)
    assert any("at random" in note for note in graph.notes)
    edges = graph.edge_list()
    pairs = set(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    for seed in range(40):
        torch.manual_seed(seed)
        _, chosen = torch.nn.functional.fractional_max_pool2d(x, 2, output_size=3, return_indices=True)
        for channel in range(2):
            for place, pixel in enumerate(chosen[0, channel].reshape(-1).tolist()):
                assert (channel * 49 + pixel, 98 + channel * 9 + place) in pairs
    assert fractional_starts(7, 3, 2, torch.rand(50, dtype=torch.float64)).max() == 5


def test_complex_weights_are_their_moduli() -> None:
    """One edge for each complex weight that is not zero, tied views of it once, and a note that says so."""
    layer = nn.Linear(3, 2, bias=False, dtype=torch.complex64)
    with torch.no_grad():
        layer.weight[0, 1] = 0
        layer.weight[1, 2] = 3 - 4j
    graph = build_graph(layer, torch.randn(1, 3, dtype=torch.complex64))
    edges = graph.edge_list()
    assert (graph.num_nodes, graph.num_edges, graph.num_weights, graph.num_nonzero_weights) == (5, 5, 6, 5)
    assert any("moduli" in note for note in graph.notes)
    pairs = zip(edges.source.tolist(), edges.target.tolist(), strict=True)
    by_pair = dict(zip(pairs, edges.weight.tolist(), strict=True))
    assert by_pair[2, 4] == pytest.approx(5.0)
    assert (1, 3) not in by_pair
    assert build_graph(layer, torch.randn(1, 3, dtype=torch.complex64), threshold=4.9).num_edges == 1
    twice = Fn(lambda x, w: (x @ w, x @ w.T), w=r(3, 3)).to(torch.complex64)
    assert build_graph(twice, torch.randn(1, 3, dtype=torch.complex64)).num_weights == 9


@pytest.mark.parametrize("causal", ["", ", causal"])
@pytest.mark.parametrize("what", ["row", "token"])
def test_constant_queries_and_keys_fused_and_by_hand_are_one_graph(what: str, causal: str) -> None:
    found = []
    for way in ("fused", "by hand"):
        case = BY_NAME[f"attention {way} with a constant {what}{causal}"]
        graph = build_graph(case.model(), case.inputs)
        found.append((graph.num_nodes, graph.num_edges, count_paths(graph)))
    assert found[0] == found[1]


# -- our own masked layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
def test_masked_linear_layers(backend: str) -> None:
    """A masked layer, and what is left of it as a sparse one, have the graph of a layer with zeros."""
    from deepstruct.sparse import MaskedLinearLayer, compress

    layer = MaskedLinearLayer(8, 5, backend=backend)
    layer.mask[:, :] = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    plain = nn.Linear(8, 5)
    with torch.no_grad():
        plain.weight.copy_(layer.weight * layer.mask)
    expected = build_graph(plain, r(1, 3, 8)).edge_list()
    for model in (layer, compress(nn.Sequential(layer))):
        graph = build_graph(model, r(1, 3, 8))
        edges = graph.edge_list()
        assert edges.source.tolist() == expected.source.tolist()
        assert edges.target.tolist() == expected.target.tolist()
        assert edges.weight.tolist() == pytest.approx(expected.weight.tolist())
        assert (graph.num_weights, graph.num_nonzero_weights) == (40, int(layer.mask.sum()))
        check_equality(model, r(1, 3, 8))


class OverGraph(nn.Module):
    """What a network over a graph computes, by a dense layer for each pair of layers (`separate`) or each layer."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.ends, self.reads = (model.layer_first, model.layer_out), model.reads.tolist()
        hidden, self.separate = model.hidden, model.skips == "separate"
        n, self.layer = hidden.num_vertices, hidden.structure.layer.tolist()
        weight = torch.zeros(n, n)
        weight[hidden.edges[1], hidden.edges[0]] = (hidden.weight * hidden.mask).detach()
        self.layers = nn.ModuleDict()
        for high in range(1, max(self.layer) + 1):
            rows = [v for v in range(n) if self.layer[v] == high]
            for low in range(high) if self.separate else [-1]:
                cols = [u for u in range(n) if (self.layer[u] == low if self.separate else self.layer[u] < high)]
                for v in rows:  # a row without edges is no unit
                    read = [u for u in cols if ((hidden.edges[0] == u) & (hidden.edges[1] == v)).any()]
                    if read:
                        linear = nn.Linear(len(read), 1)
                        linear.weight.data[:] = weight[v, read]
                        linear.read = read
                        self.layers[f"{high:03} {v:03} {low}"] = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.ends[0](x).relu()
        value = {v: first[:, v : v + 1] for v in range(first.shape[1])}
        for name, linear in self.layers.items():
            v = int(name.split()[1])
            out = linear(torch.cat([value[u] for u in linear.read], 1)).relu()
            value[v] = value[v] + out if v in value else out
        return self.ends[1](torch.cat([value[v] for v in self.reads], 1))


@pytest.mark.parametrize("skips", ["sum", "separate"])
def test_networks_over_graphs(skips: str) -> None:
    import networkx

    from deepstruct.sparse import MaskedDeepDAN

    for seed in range(4):
        model = MaskedDeepDAN(3, 2, networkx.gnp_random_graph(9, 0.5, seed=seed), skips=skips, readout="sinks")
        with torch.no_grad():
            model.hidden.mask[::4] = False
        graph, twin = build_graph(model, r(1, 3)), build_graph(OverGraph(model), r(1, 3))
        assert (graph.num_nodes, graph.num_edges, graph.num_weight_edges, count_paths(graph)) == (
            twin.num_nodes, twin.num_edges, twin.num_weight_edges, count_paths(twin)
        )  # fmt: skip
        weights = len(model.hidden.weight) + model.layer_first.weight.numel() + model.layer_out.weight.numel()
        assert graph.num_weights == weights


@pytest.mark.parametrize("backend", ["auto", "dense", "sparse"])
@pytest.mark.parametrize("axes", [1, 2])
def test_masked_convolutions(axes: int, backend: str) -> None:
    from deepstruct.sparse import MaskedConv1d, MaskedConv2d

    kind, twin = ((MaskedConv1d, nn.Conv1d), (MaskedConv2d, nn.Conv2d))[axes - 1]
    layer = kind(2, 3, 3, padding=1, stride=2, backend=backend)
    layer.mask[:] = torch.rand(layer.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    plain = twin(2, 3, 3, padding=1, stride=2)
    with torch.no_grad():
        plain.weight.copy_(layer.weight * layer.mask)
    x = r(1, 2, *[5] * axes)
    edges, expected = build_graph(layer, x).edge_list(), build_graph(plain, x).edge_list()
    assert edges.source.tolist() == expected.source.tolist()
    assert edges.target.tolist() == expected.target.tolist()
    assert edges.weight.tolist() == pytest.approx(expected.weight.tolist())
