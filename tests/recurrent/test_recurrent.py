"""Masked recurrent layers against PyTorch's dense ones, against the originals, and as graphs."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import deepstruct
from deepstruct.errors import InputError
from deepstruct.recurrent import (
    BaseRecurrentLayer,
    MaskedDeepRNN,
    MaskedGRULayer,
    MaskedLSTMLayer,
    MaskedRecurrentLayer,
)

ORIGINALS = Path(__file__).parent / "data" / "original_recurrent.pt"  # what the original package saved and computed
LAYERS = [MaskedRecurrentLayer, MaskedGRULayer, MaskedLSTMLayer]
DENSE = {MaskedRecurrentLayer: nn.RNN, MaskedGRULayer: nn.GRU, MaskedLSTMLayer: nn.LSTM}
each_layer = pytest.mark.parametrize("kind", LAYERS, ids=lambda k: k.__name__)


def masked(layer: BaseRecurrentLayer, density: float = 0.5) -> BaseRecurrentLayer:
    layer.set_i2h_mask(torch.rand(layer.i2h_mask.shape) < density)
    layer.set_h2h_mask(torch.rand(layer.h2h_mask.shape) < density)
    return layer


def twin(layer: BaseRecurrentLayer, kind: type) -> nn.RNNBase:
    """PyTorch's own layer, with zeros where the mask is false."""
    dense = DENSE[kind](layer._input_size, layer._hidden_size, batch_first=layer._batch_first)
    with torch.no_grad():
        for parameter, value in zip(dense.parameters(), layer.masked_weights(), strict=True):
            parameter.copy_(value)
    return dense


def tuples(state):
    return state if isinstance(state, tuple) else (state,)


@each_layer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given_state", [False, True])
def test_a_sequence_and_its_gradients_are_those_of_the_dense_twin(kind, batch_first, given_state):
    layer = masked(kind(3, 5, batch_first))
    dense = twin(layer, kind)
    x, state = torch.randn(4, 6, 3), None
    if given_state:
        batch = x.shape[0 if batch_first else 1]
        state = tuple(torch.randn(batch, 5) for _ in range(2 if kind is MaskedLSTMLayer else 1))
    hx = state if state is None or kind is MaskedLSTMLayer else state[0]
    out, last = layer.sequence(x, hx)
    theirs = None if state is None else tuple(s[None] for s in state)
    expected, end = dense(x, theirs if theirs is None or kind is MaskedLSTMLayer else theirs[0])
    torch.testing.assert_close(out, expected)
    for a, b in zip(tuples(last), tuples(end), strict=True):
        torch.testing.assert_close(a, b[0])
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    masks = [layer.i2h_mask, layer.h2h_mask, torch.tensor(True), torch.tensor(True)]
    for ours, theirs_, mask in zip(layer.parameters(), dense.parameters(), masks, strict=True):
        torch.testing.assert_close(ours.grad, theirs_.grad * mask)


@each_layer
def test_steps_one_by_one_are_the_sequence(kind):
    layer = masked(kind(3, 5))
    x, h = torch.randn(7, 2, 3), torch.randn(2, 5)
    hx = (h, h.clone()) if kind is MaskedLSTMLayer else h
    expected = layer.unfold(x, hx)
    for t, step in enumerate(x):
        hx = layer(step, hx)
        torch.testing.assert_close(tuples(hx)[0], expected[t])


def test_a_cell_with_another_nonlinearity_runs_step_by_step():
    layer = masked(MaskedRecurrentLayer(3, 4, nonlinearity=nn.LogSigmoid()))
    x, h = torch.randn(5, 2, 3), torch.zeros(2, 4)
    out, last = layer.sequence(x)
    for t, step in enumerate(x):
        h = nn.functional.logsigmoid(
            step @ (layer._weight_ih * layer.i2h_mask).T + layer._bias_ih
            + h @ (layer._weight_hh * layer.h2h_mask).T + layer._bias_hh
        )  # fmt: skip
        torch.testing.assert_close(out[t], h)
    torch.testing.assert_close(last, h)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(LAYERS), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans(), st.booleans(),
    st.integers(0, 1000),
)  # fmt: skip
def test_packed_sequences_are_those_of_the_twin(kind, lengths, batch_first, with_state, seed):
    torch.manual_seed(seed)
    layer = masked(kind(2, 3, batch_first))
    packed = pack_sequence([torch.randn(n, 2) for n in lengths], enforce_sorted=False)
    state = None
    if with_state:
        state = tuple(torch.randn(len(lengths), 3) for _ in range(2 if kind is MaskedLSTMLayer else 1))
    hx = state if state is None or kind is MaskedLSTMLayer else state[0]
    out, last = layer.sequence(packed, hx)
    theirs = None if state is None else tuple(s[None] for s in state)
    expected, end = twin(layer, kind)(packed, theirs if theirs is None or kind is MaskedLSTMLayer else theirs[0])
    torch.testing.assert_close(out.data, expected.data)
    assert torch.equal(out.batch_sizes, expected.batch_sizes)
    padded, sizes = pad_packed_sequence(out)
    assert sizes.tolist() == lengths
    for a, b in zip(tuples(last), tuples(end), strict=True):
        torch.testing.assert_close(a, b[0])
    model = MaskedDeepRNN(2, [3], kind, batch_first=batch_first)
    model._recurrent_layers[0] = layer
    ends = padded[torch.tensor(lengths) - 1, torch.arange(len(lengths))]
    torch.testing.assert_close(model(packed, None if hx is None else [hx]), ends)
    whole = model(packed, None if hx is None else [hx], full_sequence=True)
    torch.testing.assert_close(pad_packed_sequence(whole)[0], padded)


@each_layer
def test_compiled_models_agree_forward_and_backward(kind):
    model = MaskedDeepRNN(3, [4, 5], kind, batch_first=True)
    model.apply_mask(0.2, i2h=True, h2h=True)
    x = torch.randn(2, 6, 3, requires_grad=True)
    expected = torch.autograd.grad(model(x).square().sum(), [x, *model.parameters()])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).square().sum(), [x, *model.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_the_operator_for_compilers(cell):
    gates = {"gru": 3, "lstm": 4}.get(cell, 1)
    shapes = [(3, 2, 2), (2, 3), (2, 3) if cell == "lstm" else (0,), (gates * 3, 2), (gates * 3, 3), (gates * 3,),
              (gates * 3,)]  # fmt: skip
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    op = torch.ops.deepstruct.recurrent.default
    torch.library.opcheck(op, (cell, *inputs))

    def run(*values):
        return op(cell, *values)[:2] if cell != "lstm" else op(cell, *values)

    assert torch.autograd.gradcheck(run, inputs)


@each_layer
def test_optimizers_leave_masked_weights_out_of_the_function(kind):
    model = MaskedDeepRNN(2, [4], kind, batch_first=True)
    layer = masked(model.recurrent_layers[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(3, 5, 2)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        assert not layer._weight_hh.grad[~layer.h2h_mask].any()
        optimizer.step()
    before = model(x)
    with torch.no_grad():
        layer._weight_hh[~layer.h2h_mask] += 1
        layer._weight_ih[~layer.i2h_mask] += 1
    assert torch.equal(model(x), before)


@each_layer
def test_thresholds_make_masks_and_resetting_lifts_them(kind):
    model = MaskedDeepRNN(3, [4, 2], kind)
    before = [layer.i2h_mask.clone() for layer in model.recurrent_layers]
    model.apply_mask(0.3, h2h=True)
    for layer, mask in zip(model.recurrent_layers, before, strict=True):
        assert torch.equal(layer.h2h_mask, layer._weight_hh.abs() >= 0.3)
        assert torch.equal(layer.i2h_mask, mask)
    kept = model.recurrent_layers[0].h2h_mask.clone()
    model.reset_parameters(keep_mask=True)
    assert torch.equal(model.recurrent_layers[0].h2h_mask, kept)
    model.reset_parameters()
    assert all(layer.h2h_mask.all() for layer in model.recurrent_layers)


@each_layer
def test_copies_states_and_files(kind):
    model = MaskedDeepRNN(3, [4, 2], kind, batch_first=True)
    model.apply_mask(0.2, i2h=True, h2h=True)
    x = torch.randn(2, 5, 3)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = MaskedDeepRNN(3, [4, 2], kind, batch_first=True)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert torch.equal(other(x), model(x))
    double = copy.deepcopy(model).double()
    torch.testing.assert_close(double(x.double()).float(), model(x))
    assert double.recurrent_layers[0].h2h_mask.dtype == torch.bool


@each_layer
def test_full_sequences_and_given_states(kind):
    model = MaskedDeepRNN(3, [4, 2], kind, batch_first=True)
    x = torch.randn(2, 5, 3)
    states = [(torch.randn(2, n), torch.randn(2, n)) if kind is MaskedLSTMLayer else torch.randn(2, n) for n in (4, 2)]
    whole = model(x, states, full_sequence=True)
    assert whole.shape == (2, 5, 2)
    torch.testing.assert_close(whole[:, -1], model(x, states))
    assert not torch.equal(model(x, states), model(x))


@each_layer
def test_masked_connections_are_no_edges(kind):
    model = MaskedDeepRNN(3, [4], kind, batch_first=True).eval()
    layer = masked(model.recurrent_layers[0])
    steps = 4
    graph = deepstruct.extract(model, torch.randn(1, steps, 3))
    expected = steps * int(layer.i2h_mask.sum()) + (steps - 1) * int(layer.h2h_mask.sum())
    assert graph.num_weight_edges == expected


def test_the_seeds_example():
    batch_size, seq_size, input_size = 100, 15, 1
    model = MaskedDeepRNN(
        hidden_layers=[100, 100, 1],
        input_size=input_size,
        batch_first=True,
        build_recurrent_layer=MaskedLSTMLayer,
    )
    model.apply_mask(threshold=0.1, i2h=True, h2h=True)
    random_input = torch.tensor(
        np.random.default_rng(0).random((batch_size, seq_size, input_size)), dtype=torch.float32, requires_grad=False
    )
    assert model(random_input).shape == (batch_size, 1)


@each_layer
def test_states_and_outputs_of_the_original(kind):
    models = torch.load(ORIGINALS, weights_only=True)
    entries = [e for e in models.values() if dict(e["args"]).get("layer") == kind.__name__]
    assert entries
    for entry in entries:
        arguments = dict(entry["args"])
        threshold = entry["threshold"]
        arguments["build_recurrent_layer"] = kind
        del arguments["layer"]
        model = MaskedDeepRNN(**arguments)
        model.load_state_dict(entry["state_dict"], strict=True)
        torch.testing.assert_close(model(entry["input"]), entry["output"], rtol=1e-5, atol=1e-5)
        masks = [layer.h2h_mask.clone() for layer in model.recurrent_layers]
        model.apply_mask(threshold, i2h=True, h2h=True)
        assert all(torch.equal(m, layer.h2h_mask) for m, layer in zip(masks, model.recurrent_layers, strict=True))
        torch.testing.assert_close(model(entry["input"]), entry["output"], rtol=1e-5, atol=1e-5)


def test_bad_requests():
    layer = MaskedLSTMLayer(3, 4)
    with pytest.raises(InputError, match="shape"):
        layer.set_i2h_mask(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="boolean"):
        layer.set_h2h_mask(torch.ones(16, 4))
    with pytest.raises(InputError, match="3 features"):
        layer.unfold(torch.randn(5, 2, 4))
    with pytest.raises(InputError, match="at least one step"):
        layer.unfold(torch.randn(0, 2, 3))
    with pytest.raises(InputError, match="state"):
        layer.unfold(torch.randn(5, 2, 3), torch.zeros(3, 4))
    with pytest.raises(InputError, match="input_size"):
        MaskedGRULayer(0, 4)
    with pytest.raises(InputError, match="at least one layer"):
        MaskedDeepRNN(3, [])
    with pytest.raises(InputError, match="nonlinearity"):
        MaskedDeepRNN(3, [4], nonlinearity=3)
    model = MaskedDeepRNN(3, [4])
    with pytest.raises(InputError, match="states"):
        model(torch.randn(5, 2, 3), [])
    with torch.no_grad():
        model.recurrent_layers[0]._weight_hh[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        model.apply_mask(0.1, h2h=True)
