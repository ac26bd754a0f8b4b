"""Example inputs: where they are found, how they are checked."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from torch import nn

from deepstruct.errors import InputError, TraceError
from deepstruct.trace import find_example_input, trace


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        return self.conv(x)


def image() -> torch.Tensor:
    return torch.ones(1, 3, 5, 5)


class WithMethod(Body):
    def example_input(self):
        return image()


class WithTensor(Body):
    example_input = image()


class WithLightning(Body):
    example_input_array = image()


class WithTuple(Body):
    example_input_array = (image(),)


class WithDummies(Body):
    @property
    def dummy_inputs(self):
        return {"x": image()}


class WithConfig(Body):
    @property
    def default_cfg(self):
        return {"input_size": (3, 5, 5), "num_classes": 2}


class WithPretrainedConfig(Body):
    class pretrained_cfg:
        input_size = (3, 5, 5)


@pytest.mark.parametrize(
    "model", [WithMethod, WithTensor, WithLightning, WithTuple, WithDummies, WithConfig, WithPretrainedConfig]
)
def test_found_on_the_model(model):
    args, kwargs = find_example_input(model())
    (x,) = (*args, *kwargs.values())
    assert x.shape == (1, 3, 5, 5)
    assert bool(kwargs) == (model is WithDummies)
    graph = trace(model())
    assert graph.values[graph.inputs[0]].name == "x"
    assert graph.example[0] == () or torch.equal(graph.example[0][0], x)


def test_order_of_preference():
    class Both(WithConfig):
        example_input_array = torch.zeros(2, 3, 6, 6)

    assert find_example_input(Both())[0][0].shape == (2, 3, 6, 6)


def test_first_linear_layer():
    model = nn.Sequential(nn.Sequential(nn.Linear(7, 3)), nn.ReLU()).double()
    state = torch.get_rng_state()
    (x,), kwargs = find_example_input(model)
    assert (x.shape, x.dtype, kwargs) == ((1, 7), torch.float64, {})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, find_example_input(model)[0][0])
    assert x.any()
    assert trace(model).ops[-1].name == "relu"


def test_dtype_follows_the_model():
    (x,), _ = find_example_input(WithLightning().to(torch.bfloat16))
    assert x.dtype == torch.bfloat16


def test_nothing_found():
    with pytest.raises(InputError) as caught:
        find_example_input(Body())
    message = str(caught.value)
    assert "Conv2d" in message
    assert "(x)" in message
    assert "torch.randn(1, 3, 224, 224)" in message
    with pytest.raises(InputError):
        trace(Body())


@pytest.mark.parametrize("example", [3, "text", object(), {1, 2}])
def test_input_of_the_wrong_kind(example):
    with pytest.raises(InputError, match="pass a tensor, a tuple"):
        trace(Body(), example)


def test_kinds_of_input(mode):
    class Sum(nn.Module):
        def forward(self, a, b=None, c=1):
            return a + (0 if b is None else b) + c

    t = [torch.ones(2), torch.ones(2) * 2]
    cases = [
        (t[0], None, ["a"]),
        (t, None, ["a", "b"]),
        (tuple(t), {"c": torch.ones(2)}, ["a", "b", "c"]),
        ({"b": t[1], "a": t[0]}, None, ["b", "a"]),
        (UserDict(a=t[0]), {"c": 4}, ["a"]),
        ((t[0], None, 5), None, ["a"]),
        (None, {"a": t[0]}, ["a"]),
    ]
    for example, extra, names in cases:
        graph = trace(Sum(), example, example_kwargs=extra, mode=mode)
        assert [graph.values[v].name for v in graph.inputs] == names


def test_an_argument_given_twice():
    with pytest.raises(InputError, match=r"\['x'\]"):
        trace(Body(), {"x": image()}, example_kwargs={"x": image()})


def test_not_a_module():
    with pytest.raises(InputError, match=r"torch\.nn\.Module.*function"):
        trace(lambda x: x, torch.ones(2))


def test_unknown_mode():
    with pytest.raises(InputError, match="'symbolic'"):
        trace(Body(), image(), mode="symbolic")


def test_other_device():
    with pytest.raises(InputError, match=r"'x' is on meta.*weights are on cpu") as caught:
        trace(Body(), image().to("meta"))
    assert "cpu" in str(caught.value)


def test_lazy_modules():
    with pytest.raises(InputError, match=r"'weight'.*run the model"):
        trace(nn.LazyLinear(3), torch.ones(1, 2))


@pytest.mark.parametrize("mode", ["auto", "fake", "real"])
def test_wrong_shape_names_the_module(mode):
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(TraceError) as caught:
        trace(model, torch.ones(2, 4), mode=mode)
    message = str(caught.value)
    assert "'1.1'" in message
    assert "input (2, 4) float32" in message
    assert "shapes cannot be multiplied" in message or "reduction dim" in message
    assert caught.value.__cause__ is not None


def test_a_shape_is_not_an_input():
    with pytest.raises(TraceError, match=r"give torch\.randn\(1, 3, 8, 8\)"):
        trace(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))


def test_missing_argument_is_the_models_error():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    with pytest.raises(TraceError, match="missing 1 required positional argument"):
        trace(Two(), torch.ones(2))


def test_replay_checks_its_inputs():
    graph = trace(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(InputError, match=r"\(2, 3\).*recorded were \(1, 3\)"):
        graph.replay(torch.ones(2, 3))
    with pytest.raises(InputError, match="float64"):
        graph.replay(torch.ones(1, 3).double())
    with pytest.raises(InputError, match="recorded inputs"):
        graph.replay(torch.ones(1, 3), torch.ones(1, 3))
    out = graph.replay(torch.ones(1, 3))
    assert not out.requires_grad
