"""Recurrent layers and attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence


def functions(graph) -> list[str]:
    return [call.name for call in graph.calls if call.kind == "function"]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "batch_first": True}, {"bidirectional": True, "num_layers": 2}, {"bias": False}],
    ids=["plain", "layers", "both ways", "no bias"],
)
def test_recurrent(cell, options, mode, replays):
    graph = replays(cell(4, 3, **options), torch.randn(5, 2, 4), torch.randn(5, 2, 4), mode=mode)
    name = {nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[cell]
    assert functions(graph) == [name]
    call = next(call for call in graph.calls if call.kind == "function")
    assert call.args[0].id == graph.inputs[0]
    assert call.start < call.stop


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_recurrent_variants(mode, replays):
    x, y = torch.randn(5, 2, 4), torch.randn(5, 2, 4)
    assert functions(replays(nn.RNN(4, 3, nonlinearity="relu"), x, y, mode=mode)) == ["rnn_relu"]
    replays(nn.LSTM(4, 6, proj_size=3), x, y, mode=mode)
    replays(nn.LSTM(4, 3), (x, (torch.randn(1, 2, 3), torch.randn(1, 2, 3))), mode=mode)


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cell_loop(cell, mode, replays):
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(4, 3)

        def forward(self, x):
            state = None
            for step in x:
                state = self.cell(step, state)
            return state

    graph = replays(Loop(), torch.randn(3, 2, 4), torch.randn(3, 2, 4), mode=mode)
    assert [call.repeat for call in graph.calls if call.path == "cell" and call.kind == "module"] == [0, 1, 2]


class Packed(nn.Module):
    def __init__(self, cell: type[nn.RNNBase], lengths_inside: bool = True) -> None:
        super().__init__()
        self.rnn = cell(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.lengths_inside = lengths_inside

    def forward(self, x, lengths=None):
        lengths = torch.tensor([3, 5, 1]) if self.lengths_inside else lengths
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.rnn(packed)
        padded, n = pad_packed_sequence(out, batch_first=True)
        return padded, n


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("inside", [True, False])
def test_packed(cell, inside, mode, replays):
    x, y = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    extra = () if inside else (torch.tensor([3, 5, 1]),)
    graph = replays(Packed(cell, inside), (x, *extra), (y, *extra), mode=mode)
    assert functions(graph) == [{nn.LSTM: "lstm", nn.GRU: "gru", nn.RNN: "rnn_tanh"}[cell]]


def test_packed_sequence_as_input(mode, replays):
    def packed() -> object:
        return pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])

    graph = replays(nn.LSTM(4, 3), (packed(),), (packed(),), mode=mode)
    assert [graph.values[v].name for v in graph.inputs] == ["input.data", "input.batch_sizes"]


@pytest.mark.parametrize("fast", [True, False])
def test_multihead_attention(fast, mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x, padding):
            n = x.shape[1]
            mask = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
            return self.attn(x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=not fast)

    padding = torch.tensor([[False, False, False, True], [False] * 4])
    graph = replays(Net().eval(), (torch.randn(2, 4, 8), padding), (torch.randn(2, 4, 8), padding), mode=mode)
    names = functions(graph)
    assert names[0] == "multi_head_attention_forward"
    assert ("scaled_dot_product_attention" in names) == fast


def test_multihead_attention_with_bias_and_other_dimensions(mode, replays):
    attn = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, add_bias_kv=True, add_zero_attn=True).eval()
    q, k, v = torch.randn(3, 2, 8), torch.randn(4, 2, 5), torch.randn(4, 2, 6)
    replays(attn, (q, k, v), (q * 2, k + 1, v - 1), mode=mode)


def test_transformer(mode, replays):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    graph = replays(encoder, torch.randn(2, 4, 8), torch.randn(2, 4, 8), mode=mode)
    assert functions(graph).count("scaled_dot_product_attention") == 2
    assert torch.backends.mha.get_fastpath_enabled()
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
    x, y = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    replays(model, (x, y), (x + 1, y * 2), mode=mode)


class Attend(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = options

    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.options)


@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "float", "grouped", "scale"])
def test_scaled_dot_product_attention_is_decomposed(kind, mode, replays):
    q, k, v = (torch.randn(2, 4, 5, 8) for _ in range(3))
    extra: tuple[torch.Tensor, ...] = ()
    options: dict[str, object] = {}
    if kind == "causal":
        options = {"is_causal": True}
    elif kind == "bool":
        extra = (torch.rand(5, 5) > 0.3,)
        extra[0].fill_diagonal_(True)
    elif kind == "float":
        extra = (torch.randn(5, 5),)
    elif kind == "grouped":
        options, k, v = {"enable_gqa": True}, k[:, :2], v[:, :2]
    elif kind == "scale":
        options = {"scale": 0.3}
    graph = replays(Attend(**options), (q, k, v, *extra), (q + 1, k * 2, v - 1, *extra), mode=mode)
    names = {op.name for op in graph.ops}
    assert "bmm" in names
    assert names & {"_softmax", "_safe_softmax"}
    assert not any("scaled_dot_product" in name for name in names)
    call = next(call for call in graph.calls if call.kind == "function")
    assert call.name == "scaled_dot_product_attention"
    assert (call.start, call.stop) == (0, len(graph.ops))
    assert call.kwargs.get("is_causal", False) == (kind == "causal")
