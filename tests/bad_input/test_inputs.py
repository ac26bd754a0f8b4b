"""Example inputs that are missing or do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.errors import InputError, TraceError
from tests.bad_input.untouched import untouched


def linear():
    return nn.Linear(4, 3)


def conv():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.layer(left) + right


def test_no_input_is_found(refused):
    refused(InputError, conv(), None, "Sequential", "Conv2d", "torch.randn(1, 3, 224, 224)", "example_input_array")
    refused(InputError, nn.LSTM(4, 3), None, "LSTM", "tuple of positional arguments")


@pytest.mark.parametrize(
    ("model", "shape", "words"),
    [
        (linear(), (1, 5), ("1x5 and 4x3", "Linear")),
        (linear(), (), ("Linear",)),
        (conv(), (1, 1, 8, 8), ("'0'", "(1, 1, 8, 8)")),
        (conv(), (4,), ("'0'", "(4,)")),
        (conv(), (1, 3, 2, 2), ("'0'", "(1, 3, 2, 2)")),
        (conv(), (1, 3, 0, 8), ("'0'", "(1, 3, 0, 8)")),
    ],
)
def test_wrong_shapes(model, shape, words, refused):
    refused(TraceError, model, torch.randn(shape), "model(example_input)", *words)


@pytest.mark.parametrize(
    ("model", "dtype", "words"),
    [
        (linear(), torch.int64, ("int64 by float32",)),
        (linear(), torch.float64, ("float64 by float32",)),
        (linear(), torch.complex64, ("complex64 by float32",)),
        (linear().half(), torch.float32, ("float32 by float16",)),
    ],
)
def test_another_dtype(model, dtype, words, refused):
    """Fake tensors would let it pass; the model itself would not."""
    x = torch.ones(1, 4, dtype=dtype)
    with pytest.raises(RuntimeError):
        model(x)
    refused(InputError, model, x, "dtype of the weights", *words)


def test_another_dtype_for_a_convolution(refused):
    refused(TraceError, conv(), torch.ones(1, 3, 5, 5, dtype=torch.float64), "double", "float", "'0'")


def test_autocast_is_no_other_dtype(analysed):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer(x)

    assert analysed(Cast(), torch.randn(1, 4), orders="zeroth")["zeroth"]["edges"] == 12


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((), ("missing", "right")),
        ((torch.ones(1, 4),), ("missing", "right")),
        ((torch.ones(1, 4), torch.ones(1, 3), torch.ones(1)), ("positional",)),
        ({"left": torch.ones(1, 4), "wrong": torch.ones(1, 3)}, ("wrong",)),
        ([1.0, 2.0], ("TypeError", "'layer'")),
    ],
    ids=["none", "one", "three", "misnamed", "numbers"],
)
def test_arguments_that_do_not_fit(example, words, refused):
    refused(TraceError, Two(), example, *words)


@pytest.mark.parametrize("example", ["text", 3, object(), nn.Linear(1, 1)], ids=lambda e: type(e).__name__)
def test_what_is_no_input(example, refused):
    refused(InputError, linear(), example, type(example).__name__, "tensor", "dict of keyword arguments")


def test_keywords_that_are_no_dict(refused):
    refused(InputError, linear(), torch.ones(1, 4), "example_kwargs", "dict", example_kwargs=[1])
    refused(InputError, Two(), {"left": torch.ones(1, 4)}, "left", "both", example_kwargs={"left": torch.ones(1, 4)})


def test_an_input_on_another_device(refused):
    x = torch.ones(1, 4, device="meta")
    refused(InputError, linear(), x, "'input'", "meta", "cpu", "example_input.to('cpu')")
    refused(InputError, Two(), (torch.ones(1, 4), torch.ones(1, 3, device="meta")), "'right'", "meta")


def test_an_empty_batch(refused):
    refused(InputError, linear(), torch.ones(0, 4), "'input'", "(0, 4)", "no sample")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor(refused):
    rows = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)])
    with pytest.raises(InputError, match="nested"):
        deepstruct.analyze(linear(), rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(value, analysed):
    row = analysed(linear(), torch.full((1, 4), value), orders="zeroth")["zeroth"]
    assert (row["edges"], row["path_count"]) == (12, 12)


def test_inputs_that_require_gradients(analysed):
    leaf = torch.randn(1, 4, requires_grad=True)
    for x in (leaf, leaf * 2):
        assert analysed(linear(), x, orders="zeroth")["zeroth"]["edges"] == 12
    assert leaf.grad is None


def test_inputs_that_a_model_writes_into(analysed):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.mul_(2))

    assert analysed(Writes(), torch.randn(1, 4), orders="zeroth")["zeroth"]["edges"] == 12


def test_a_failure_in_one_call_leaves_nothing_for_the_next():
    model, x, wrong = linear(), torch.randn(1, 4), torch.randn(1, 5)
    with untouched(model, x, wrong):
        with pytest.raises(TraceError):
            deepstruct.analyze(model, wrong)
        assert deepstruct.analyze(model, x, orders="zeroth")["zeroth"]["edges"] == 12
    y = model(x)
    assert type(y) is torch.Tensor
    y.sum().backward()
    assert model.weight.grad is not None
