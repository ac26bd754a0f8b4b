"""The conventions of the zeroth order: what is a unit, what is an edge, and who counts the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from deepstruct.errors import InputError
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing import build_graph, check_equality, count_paths, graph_support

from .cases import Fn, Unrolled, r


def shape_of(graph: StructureGraph) -> tuple[int, int, int, int]:
    return graph.num_nodes, graph.num_weight_edges, graph.num_structural_edges, count_paths(graph)


def degrees(graph: StructureGraph) -> list[tuple[int, int]]:
    """(in-degree, out-degree) of all nodes, sorted: equal for graphs that are equal up to the order of nodes."""
    edges = graph.edge_list()
    into, out = [0] * edges.num_nodes, [0] * edges.num_nodes
    for u, v in zip(edges.source.tolist(), edges.target.tolist(), strict=True):
        out[u] += 1
        into[v] += 1
    return sorted(zip(into, out, strict=True))


def same(one: StructureGraph, other: StructureGraph) -> None:
    assert shape_of(one) == shape_of(other)
    assert degrees(one) == degrees(other)
    assert torch.equal(graph_support(one).matrix, graph_support(other).matrix)


# -- recurrent layers are the cell, unrolled ---------------------------------------------------------


class OutputsOnly(nn.Module):
    """The outputs of a recurrent layer, without its final states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


class HandWrittenLSTM(nn.Module):
    """The equations of an LSTM, written out."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(inputs, 4 * width), nn.Linear(width, 4 * width)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[1], self.width)
        out = []
        for step in x:
            i, f, g, o = (self.x(step) + self.h(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            out.append(h)
        return torch.stack(out)


@pytest.mark.parametrize(("layer", "cell"), [("RNN", "RNNCell"), ("LSTM", "LSTMCell"), ("GRU", "GRUCell")])
def test_a_recurrent_layer_is_its_cell_in_a_loop(layer: str, cell: str) -> None:
    x = r(4, 1, 2)
    whole = build_graph(OutputsOnly(getattr(nn, layer)(2, 3)), x)
    same(whole, build_graph(Unrolled(getattr(nn, cell)(2, 3)), x))


def test_lstm_is_the_equations_of_an_lstm() -> None:
    x = r(5, 1, 5)
    graph = build_graph(OutputsOnly(nn.LSTM(5, 5)), x)
    assert graph.num_nodes == 215
    same(graph, build_graph(HandWrittenLSTM(5, 5), x))


def test_two_layers_are_two_layers() -> None:
    x = r(3, 1, 2)
    stacked = nn.Sequential(OutputsOnly(nn.GRU(2, 3)), OutputsOnly(nn.GRU(3, 3)))
    same(build_graph(OutputsOnly(nn.GRU(2, 3, num_layers=2)), x), build_graph(stacked, x))


@pytest.mark.parametrize("layer", ["RNN", "LSTM", "GRU"])
def test_initial_states_that_are_given_are_units(layer: str) -> None:
    state = r(1, 1, 3)
    states = (state, r(1, 1, 3, seed=1)) if layer == "LSTM" else state
    graph = build_graph(getattr(nn, layer)(2, 3), (r(3, 1, 2), states))
    without = build_graph(getattr(nn, layer)(2, 3), r(3, 1, 2))
    assert len(graph.input_nodes()) == len(without.input_nodes()) + (6 if layer == "LSTM" else 3)
    assert graph.num_weight_edges > without.num_weight_edges


# -- attention: eager and fused ----------------------------------------------------------------------


class SelfAttention(nn.Module):
    """Two heads, with the product written by hand or fused, and a mask in one of several forms."""

    def __init__(self, fused: bool, mask: str | None, groups: int = 2) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 4 + 4 * groups), nn.Linear(4, 4)
        self.fused, self.mask, self.groups = fused, mask, groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).split([4, 2 * self.groups, 2 * self.groups], -1)
        q = q.view(n, length, 2, 2).transpose(1, 2)
        k, v = (t.reshape(n, length, self.groups, 2).transpose(1, 2) for t in (k, v))
        k, v = (t.repeat_interleave(2 // self.groups, 1) for t in (k, v))
        allowed = torch.ones(length, length).tril().bool()
        if self.fused:
            options: dict[str, Any] = {}
            if self.mask == "causal":
                options["is_causal"] = True
            elif self.mask is not None:
                options["attn_mask"] = allowed
            mixed = F.scaled_dot_product_attention(q, k, v, **options)
        else:
            scores = q @ k.transpose(2, 3) / 2**0.5
            if self.mask == "causal":
                scores = scores.masked_fill(~allowed, float("-inf"))
            elif self.mask == "where":
                scores = torch.where(allowed, scores, torch.finfo(scores.dtype).min)
            elif self.mask == "added":
                scores = scores + torch.zeros(length, length).masked_fill(~allowed, torch.finfo(scores.dtype).min)
            mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, length, 4))


@pytest.mark.parametrize("mask", [None, "causal", "where", "added"])
@pytest.mark.parametrize("groups", [1, 2])
def test_eager_attention_is_fused_attention(mask: str | None, groups: int) -> None:
    eager, fused = (build_graph(SelfAttention(f, mask, groups), r(1, 5, 4)) for f in (False, True))
    same(eager, fused)
    pairs = 2 * (15 if mask else 25)
    assert sum(fused.nodes_in(s) for s in fused.spaces if s.kind == "mix") == pairs + 5 * 4


def test_multi_head_attention_is_attention_by_hand() -> None:
    class Native(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    same(build_graph(Native().eval(), r(1, 5, 4)), build_graph(SelfAttention(True, None), r(1, 5, 4)))


def test_a_mask_of_minus_100_keeps_its_edges() -> None:
    def scores(value: float) -> StructureGraph:
        mask = torch.zeros(3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), value)
        return build_graph(Fn(lambda x: (x @ x.mT + mask).softmax(-1) @ x), r(1, 3, 2))

    kept, removed = scores(-100.0), scores(-1e9)
    assert kept.num_nodes - removed.num_nodes == 3
    assert "-10000" in kept.conventions["attention"] or "-1e+04" in kept.conventions["attention"]


def test_padded_keys_are_no_units() -> None:
    class Padded(nn.Module):
        def __init__(self, padding: torch.Tensor | None) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.padding = padding

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x, key_padding_mask=self.padding, need_weights=False)[0]

    full = build_graph(Padded(None).eval(), r(1, 3, 4))
    padded = build_graph(Padded(torch.tensor([[False, False, True]])).eval(), r(1, 3, 4))
    assert full.num_nodes - padded.num_nodes == 2 * 3  # heads x queries


# -- normalizations ----------------------------------------------------------------------------------


class HandRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype)


class HandLayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + 1e-5) + self.bias


class ChannelLayerNorm(nn.Module):
    """Over the channels of an image, as ConvNeXt and SAM write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        return (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()


class PermutedLayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("normalization", ["one_to_one", "stats"])
@pytest.mark.parametrize(("hand", "native"), [(HandRMSNorm, nn.RMSNorm), (HandLayerNorm, nn.LayerNorm)])
def test_a_norm_written_by_hand_is_the_native_one(
    hand: type[nn.Module], native: type[nn.Module], normalization: str
) -> None:
    def net(norm: type[nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), norm(4), nn.Linear(4, 2))

    one, other = (build_graph(net(n), r(1, 2, 3), normalization=normalization) for n in (hand, native))
    same(one, other)
    if normalization == "stats":
        assert one.num_structural_edges == 2 * (4 + 2 * 4)  # tokens x (into the statistics, two per element)
    else:
        assert one.num_structural_edges == 0


@pytest.mark.parametrize("normalization", ["one_to_one", "stats"])
def test_a_norm_over_channels(normalization: str) -> None:
    x = r(1, 3, 2, 3)
    graph = check_equality(nn.Sequential(nn.Conv2d(3, 3, 1), ChannelLayerNorm()), x, normalization=normalization)
    other = check_equality(nn.Sequential(nn.Conv2d(3, 3, 1), PermutedLayerNorm(3)), x, normalization=normalization)
    assert shape_of(graph) == shape_of(other)


class Broadcast(nn.Module):
    """A result that reads its input only through a reduction is no normalization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1, keepdim=True).expand_as(x) * 2


class TransposedNorm(nn.Module):
    """A normalization that moves elements too; the map is square, so that its shape does not tell."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)).transpose(1, 2)


def test_what_looks_like_a_norm_and_is_none() -> None:
    graph = check_equality(nn.Sequential(nn.Linear(3, 3), Broadcast()), r(1, 2, 3))
    assert graph.num_nodes == 6 + 6 + 2
    check_equality(nn.Sequential(nn.Linear(3, 3), TransposedNorm()), r(1, 3, 3))
    check_equality(nn.Sequential(nn.Linear(3, 3), TransposedNorm()), r(1, 3, 3), normalization="stats")


# -- zeros -------------------------------------------------------------------------------------------


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 5)


MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]]).float()


def by_pruning(module: nn.Linear) -> nn.Module:
    prune.custom_from_mask(module, "weight", MASK)
    return module


def by_zeros(module: nn.Linear) -> nn.Module:
    with torch.no_grad():
        module.weight.mul_(MASK)
    return module


def by_parametrization(module: nn.Linear) -> nn.Module:
    class Masked(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * MASK

    parametrize.register_parametrization(module, "weight", Masked())
    return module


class ByMask(nn.Module):
    """A mask that is a buffer, multiplied in the forward pass."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.linear = module
        self.register_buffer("mask", MASK.bool())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.linear.weight * self.mask, self.linear.bias)


@pytest.mark.parametrize("how", [by_pruning, by_zeros, by_parametrization, ByMask])
def test_pruned_weights_are_no_edges(how: Callable[[nn.Linear], nn.Module]) -> None:
    model = nn.Sequential(how(layer()), nn.SiLU(), nn.Linear(5, 2))
    graph = check_equality(model, r(1, 4))
    assert graph.num_nodes == 4 + 5 + 2  # a neuron without inputs stays a neuron
    assert graph.num_weight_edges == int(MASK.sum()) + 10
    assert (graph.num_weights, graph.num_nonzero_weights) == (30, int(MASK.sum()) + 10)


def test_weight_norm_and_spectral_norm_keep_the_edges() -> None:
    for wrap in (parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm):
        graph = build_graph(nn.Sequential(wrap(layer()), nn.Linear(5, 2)).eval(), r(1, 4))
        assert (graph.num_weight_edges, graph.num_weights) == (30, 30)
    zeroed = layer()
    with torch.no_grad():
        zeroed.weight.mul_(MASK.roll(1, 1).maximum(MASK))
        expected = int(torch.count_nonzero(zeroed.weight[[0, 2, 3, 4]]))
        zeroed.weight[1] = 1  # a row of zeros has no direction
    graph = build_graph(parametrizations.weight_norm(zeroed), r(1, 4))
    assert graph.num_weight_edges == expected + 4


def test_threshold_and_density_cut() -> None:
    model = nn.Sequential(layer(), nn.Linear(5, 2))
    weights = torch.cat([p.detach().abs().reshape(-1) for p in (model[0].weight, model[1].weight)])
    for threshold in (0.1, 0.2, 0.4):
        graph = build_graph(model, r(1, 4), threshold=threshold)
        assert graph.num_edges == graph.edge_list().num_edges == int((weights > threshold).sum())
        assert f"{threshold:g}" in graph.conventions["weight_edges"]
    for density in (1.0, 0.5, 0.1):
        graph = build_graph(model, r(1, 4), density=density)
        assert graph.num_edges == round(density * weights.numel())
    with pytest.raises(InputError, match="threshold and density"):
        build_graph(model, r(1, 4), threshold=0.1, density=0.5)


def test_weights_that_are_tied_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False)
            self.tied = tied

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            back = self.up.weight.T if self.tied else self.down.weight
            return F.linear(torch.relu(self.up(x)), back)

    assert build_graph(Tied(True), r(1, 3)).num_weights == 12
    assert build_graph(Tied(True), r(1, 3)).num_edges == build_graph(Tied(False), r(1, 3)).num_edges == 24
    shared = nn.Linear(3, 3)
    twice = build_graph(nn.Sequential(shared, nn.ReLU(), shared), r(1, 3))
    assert (twice.num_weights, twice.num_edges, twice.num_parameters) == (9, 18, 12)


def test_tied_embeddings() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(tokens).tanh())

    graph = check_equality(Language(), torch.tensor([[1, 2, 1]]))
    assert (graph.num_nodes, graph.num_edges, graph.num_weights) == (3 * 4 + 3 * 7, 3 * 28, 28)
    assert len(graph.input_nodes()) == 12  # one per position and feature, repeated tokens apart


def test_scales_of_zero_cut_the_branch_off() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 3), nn.Parameter(torch.full((3,), scale))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.scale * self.linear(x)

    whole, cut = (check_equality(Scaled(s), r(1, 3)) for s in (0.1, 0.0))
    assert count_paths(whole) == 9 + 3
    assert count_paths(cut) == 3


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_batch_norm_with_a_scale_of_zero(bias: float) -> None:
    norm = nn.BatchNorm1d(3)
    with torch.no_grad():
        norm.weight[1] = 0
        norm.bias.fill_(bias)
    graph = check_equality(nn.Sequential(nn.Linear(2, 3), norm, nn.Linear(3, 2)).eval(), r(1, 2))
    assert count_paths(graph) == 2 * 2 * 2
    assert any("exactly zero" in note for note in graph.notes)


def test_a_shortcut_padded_with_zeros() -> None:
    """The shortcut of the first ResNets: strided, with new channels of zeros."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))

    graph = check_equality(Block(), r(1, 2, 4, 4))
    assert graph.num_nodes == 32 + 16
    assert graph.num_structural_edges == 8  # two channels of four positions


# -- sums and merges ---------------------------------------------------------------------------------


def unfused_paths(model: nn.Module, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> StructureGraph:
    with monkeypatch.context() as patch:
        patch.setattr("deepstruct.structure.orders.zeroth.fuse_sums", lambda *_: None)
        return build_graph(model, x)


class Sums(nn.Module):
    """Sums of branches: linear, scaled, permuted, normalised, curved, and read twice."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> Any:
        a, b = self.a(x), self.b(x)
        return {
            "two": lambda: a + b,
            "skip": lambda: x + b,
            "scaled": lambda: a * 0.5 - b / 2 + 1,
            "flipped": lambda: a + b.flip(1),
            "normed": lambda: self.norm(a) + b,
            "curved": lambda: a.relu() + b,
            "chain": lambda: (a + b) + x,
            "nested": lambda: (a + b) + (self.a(b) + x),
            "read twice": lambda: (a + b) * b.sigmoid(),
            "output twice": lambda: (a + b, b),
            "doubled": lambda: a + b + a,
            "broadcast": lambda: a.unsqueeze(1) + b.unsqueeze(2),
            "sliced": lambda: a[:, :2] + b[:, 1:],
        }[self.kind]()


FUSED = {  # units of linear maps and sums that are part of a sum
    "two": 6, "skip": 3, "scaled": 6, "flipped": 6, "normed": 6, "curved": 3, "chain": 9, "nested": 12, "read twice": 3,
    "output twice": 3, "doubled": 6, "broadcast": 0, "sliced": 4,
}  # fmt: skip


@pytest.mark.parametrize("kind", FUSED)
def test_units_that_are_part_of_a_sum(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sums(kind).eval()
    graph = check_equality(model, r(1, 3))
    plain = unfused_paths(model, r(1, 3), monkeypatch)
    assert plain.parent is None
    assert count_paths(graph) == count_paths(plain)
    assert plain.num_nodes - graph.num_nodes == plain.num_edges - graph.num_edges == FUSED[kind]
    assert torch.equal(graph_support(graph).matrix, graph_support(plain).matrix)


def test_an_output_is_never_part_of_a_sum() -> None:
    class Outputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> Any:
            a = self.a(x)
            return a, a + self.b(x)

    graph = build_graph(Outputs(), r(1, 3))
    assert len(graph.output_nodes()) == 4
    assert graph.num_nodes == 3 + 2 + 2


def test_operands_with_equal_maps_are_one() -> None:
    for function in (
        lambda x: x * x.sigmoid(),
        lambda x: x + x,
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: x / x.exp(),
    ):
        graph = build_graph(Fn(function), r(1, 3))
        assert (graph.num_nodes, graph.num_edges) == (3, 0)
        assert len(graph.output_nodes()) == 3


def test_a_zero_removes_its_partner_and_a_constant_does_not() -> None:
    def product(row: list[float]) -> StructureGraph:
        table = torch.tensor(row)
        return build_graph(Fn(lambda x, y: (x * table) @ y), (r(2, 3), r(3, 2)))

    assert product([1.0, 1.0, 1.0]).num_edges == 2 * 2 * 2 * 3
    assert product([1.0, 0.0, 1.0]).num_edges == 2 * 2 * 2 * 2
    padded = build_graph(Fn(lambda x, y: F.pad(x, (0, 1)) @ y), (r(2, 2), r(3, 2)))
    assert padded.num_edges == 2 * 2 * 2 * 2
    token = build_graph(Fn(lambda x, y: F.pad(x, (0, 1), value=1.0) @ y), (r(2, 2), r(3, 2)))
    assert token.num_edges == 2 * 2 * 2 * 2 + 4  # the values that meet the constant keep their edges


def test_constants_are_no_units() -> None:
    class Token(nn.Module):
        """A class token before the sequence, and position embeddings added to it."""

        def __init__(self) -> None:
            super().__init__()
            self.token, self.position = nn.Parameter(r(1, 1, 2)), nn.Parameter(r(1, 4, 2))
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head((torch.cat([self.token, x], 1) + self.position).flatten(1))

    graph = check_equality(Token(), r(1, 3, 2))
    assert (graph.num_nodes, graph.num_edges) == (6 + 3, 6 * 3)


def test_integers_are_control() -> None:
    graph = build_graph(Fn(lambda i, x: x[:, i] * 2), (torch.tensor([1, 0]), r(1, 3)))
    assert len(graph.input_nodes()) == 3
    assert graph.num_edges == 0


def test_fixed_filters_make_structural_edges() -> None:
    """Numbers in a buffer are no learned weights."""

    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.tensor([[1.0, 2, 1], [0, 0, 0], [1, 2, 1]]).view(1, 1, 3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(x, self.kernel)

    graph = check_equality(Blur(), r(1, 1, 4, 4))
    assert (graph.num_weight_edges, graph.num_structural_edges, graph.num_weights) == (0, 6 * 4, 0)
    assert build_graph(Blur(), r(1, 1, 4, 4), threshold=10.0).num_edges == 6 * 4
