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
from deepstruct.sparse import recurrent_ops
from deepstruct.sparse.structure import of_mask

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
    values = operands(cell, 3, 2, 2, 3)
    torch.library.opcheck(torch.ops.deepstruct.recurrent.default, (cell, *values))

    def run(*given):
        return results(cell, recurrent_ops.compiled(cell, *given))

    assert torch.autograd.gradcheck(run, values)


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


CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm"]


def operands(cell: str, steps: int, batch: int, size: int, hidden: int, dtype: torch.dtype = torch.float64):
    """x, h, c, both weights and both biases of a cell, with gradients."""
    gates = {"gru": 3, "lstm": 4}.get(cell, 1)
    shapes = [(steps, batch, size), (batch, hidden), (batch, hidden) if cell == "lstm" else (0,),
              (gates * hidden, size), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)]  # fmt: skip
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def results(cell: str, found: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return found if cell == "lstm" else found[:2]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_passes_of_our_own_are_the_fused_kernels_and_their_gradients(cell, sparse):
    steps, batch, hidden = 11, 77, 20  # more than a tile of the sparse kernels, and no multiple of one
    values = operands(cell, steps, batch, 3, hidden)
    mask = torch.rand(values[4].shape) < 0.3
    structure = of_mask(mask)[0] if sparse else None
    masked_values = [v * mask if sparse and k == 4 else v for k, v in enumerate(values)]
    found = results(cell, recurrent_ops.run(cell, *values, structure=structure))
    expected = results(cell, recurrent_ops.fused(cell, *masked_values))
    weights = [torch.randn_like(e) for e in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    wanted = [v for v in values if v.numel()]
    for a, b in zip(
        torch.autograd.grad(found, wanted, weights), torch.autograd.grad(expected, wanted, weights), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_gradients(cell, sparse):
    values = operands(cell, 3, 2, 2, 3)
    mask = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
    structure = of_mask(mask.repeat(len(values[4]) // 3, 1))[0] if sparse else None
    wanted = [v for v in values if v.numel()]

    def function(*given):
        given = list(given)
        if cell != "lstm":
            given.insert(2, values[2])
        return results(cell, recurrent_ops.run(cell, *given, structure=structure))

    assert torch.autograd.gradcheck(function, wanted)
    assert torch.autograd.gradgradcheck(function, wanted)


@each_layer
def test_sparse_products_are_dense_ones(kind):
    layer = masked(kind(5, 40), 0.1)
    x, state = torch.randn(6, 9, 5, requires_grad=True), torch.randn(9, 40)
    seen = {}
    for backend in ("dense", "sparse"):
        layer.backend = backend
        layer.zero_grad()
        out, last = layer.sequence(x, state)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
        (grad,) = torch.autograd.grad((out * weight).sum(), [x], retain_graph=True)
        ((out * weight).sum() + sum(t.square().sum() for t in tuples(last))).backward()
        seen[backend] = [out.detach(), *(t.detach() for t in tuples(last)), grad,
                         *(p.grad.clone() for p in layer.parameters())]  # fmt: skip
    for a, b in zip(seen["sparse"], seen["dense"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        layer.i2h_mask[0] = False
        layer.h2h_mask[:, 0] = False  # edits in place are seen
    torch.testing.assert_close(layer.unfold(x), twin(layer, kind)(x)[0])


def test_vanishing_gradients_are_flushed_and_the_setting_is_left_alone():
    def flushes() -> bool:
        return bool(torch.full((), 1e-310, dtype=torch.float64) * 1 == 0)

    assert not flushes()
    layer = MaskedRecurrentLayer(1, 2)
    with torch.no_grad():
        layer._weight_hh.copy_(torch.eye(2) * 1e-3)
    x = torch.randn(20, 1, 1, requires_grad=True)
    (grad,) = torch.autograd.grad(layer.unfold(x)[-1].sum(), [x])
    assert grad[-1].abs() > 0
    tiny = torch.finfo(torch.float32).tiny
    assert bool(((grad == 0) | (grad.abs() >= tiny)).all())
    assert not flushes()
    with recurrent_ops.denormals_flushed():
        assert flushes()
        with recurrent_ops.denormals_flushed():
            pass
        assert flushes()
    assert not flushes()


def test_a_sequence_may_be_changed_in_place_afterwards():
    layer = MaskedLSTMLayer(2, 3)
    x = torch.randn(4, 5, 2)
    expected = torch.autograd.grad(torch.relu(layer.unfold(x)).sum(), list(layer.parameters()))
    found = torch.autograd.grad(layer.unfold(x).relu_().sum(), list(layer.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@each_layer
def test_traced_models_are_plain_ones(kind):
    model, x = MaskedDeepRNN(2, [3], kind, batch_first=True), torch.randn(2, 4, 2)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, x), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(x), model(x))


def test_the_backend_is_checked():
    layer = MaskedGRULayer(2, 3)
    layer.backend = "quick"
    with pytest.raises(InputError, match="backend"):
        layer.unfold(torch.randn(4, 5, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_tiles(dtype):
    """A whole number of units of 64 bytes: the kernels against matrices."""
    mask = torch.rand(600, 300) < 0.05
    structure, flat = of_mask(mask)
    values = torch.randn(len(flat), dtype=dtype)
    weight = torch.zeros(600 * 300, dtype=dtype).index_put((flat,), values).view(600, 300)
    for units in (1, 2, 3, 4):
        batch = units * (16 if dtype == torch.float32 else 8)
        x, grad = torch.randn(300, batch, dtype=dtype), torch.randn(600, batch, dtype=dtype)
        out = torch.ones(600, batch, dtype=dtype)
        torch.ops.deepstruct.sparse_product_(x, values, *structure[:3], out)
        torch.testing.assert_close(out, weight @ x + 1)
        sums = torch.ones_like(values)
        torch.ops.deepstruct.sparse_support_(grad, x, *structure[:3], sums)
        torch.testing.assert_close(sums, (grad @ x.T).flatten()[flat] + 1)
        for op, tensors in (("sparse_product_", (x, values)), ("sparse_support_", (grad, x))):
            last = torch.zeros(600, batch, dtype=dtype) if op == "sparse_product_" else torch.zeros_like(values)
            torch.library.opcheck(getattr(torch.ops.deepstruct, op).default, (*tensors, *structure[:3], last))
    with pytest.raises(RuntimeError, match=r"(bytes|tile|inconsistent|size)"):
        torch.ops.deepstruct.sparse_product_(torch.randn(300, 5), values.float(), *structure[:3], torch.ones(600, 4))
