"""A trace leaves no trace: models, caches, generators, hooks and modes are as they were."""

from __future__ import annotations

import copy
import functools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from deepstruct.errors import TraceError
from deepstruct.trace import trace


class Restless(nn.Module):
    """Changes everything that a forward pass can change, and may raise at the end."""

    def __init__(self, raises: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", None)
        self.cache: dict[str, object] = {"old": 1}
        self.history: list[object] = [0]
        self.seen = {1}
        self.nested = {"deep": [{"x": []}]}
        self.plain = torch.ones(4)
        self.raises = raises

    def forward(self, x):
        torch.randn(3)
        random.random()
        np.random.rand()
        self.count += 1
        self.last = x.detach()
        self.cache["new"] = x
        self.cache.pop("old", None)
        self.history.append(x)
        self.seen.add(2)
        self.nested["deep"][0]["x"].append(x)
        self.attribute = x * 2
        self.plain.add_(1)
        self.fc.weight.data.mul_(2)
        self.fc.bias.requires_grad_(False)
        self.norm.running_mean.zero_().add_(3)
        self.extra = nn.Linear(4, 4)
        self.eval()
        if self.raises:
            raise KeyError("on purpose")
        return self.norm(self.fc(x)) + self.plain


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_put_back(raises, mode):
    model = Restless(raises).train()
    attributes = dict(model.__dict__)
    buffers, parameters = dict(model._buffers), dict(model._parameters)
    state = copy.deepcopy(model.state_dict())
    torch_state, python_state, numpy_state = (
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
    )
    x = torch.randn(3, 4)
    torch.set_rng_state(torch_state)
    before = x.clone()
    call, grad = nn.Module.__call__, torch.is_grad_enabled()

    if raises:
        with pytest.raises(TraceError, match="on purpose"):
            trace(model, x, mode=mode)
    else:
        trace(model, x, mode=mode)

    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state).all()
    assert set(model.__dict__) == set(attributes)
    assert all(model.__dict__[k] is v for k, v in attributes.items())
    assert all(model._buffers[k] is v for k, v in buffers.items())
    assert all(model._parameters[k] is v for k, v in parameters.items())
    assert list(model._modules) == ["fc", "norm"]
    assert model.training
    assert model.norm.training
    assert model.fc.bias.requires_grad
    assert (model.cache, model.history, model.seen) == ({"old": 1}, [0], {1})
    assert model.nested == {"deep": [{"x": []}]}
    assert torch.equal(model.plain, torch.ones(4))
    for name, tensor in model.state_dict().items():
        assert type(tensor) is torch.Tensor
        assert torch.equal(tensor, state[name]), name
    assert nn.Module.__call__ is call
    assert torch.is_grad_enabled() == grad
    assert _get_current_dispatch_mode() is None
    assert torch._C._len_torch_function_stack() == 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_state_is_put_back_when_auto_tries_twice():
    model = Restless().train()
    state = copy.deepcopy(model.state_dict())
    model.fc.register_forward_hook(lambda module, args, out: torch.from_numpy(out.numpy()))
    graph = trace(model, torch.randn(3, 4))
    assert graph.mode == "real"
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


class Caching(nn.Module):
    """Keeps what it computes from its buffers, as attention biases are kept by some vision models."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 6))
        self.register_buffer("index", torch.tensor([[0, 1, 2], [3, 4, 5]]), persistent=False)
        self.cache: dict[str, torch.Tensor] = {}
        self.ready: torch.Tensor | None = None

    def forward(self, x):
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.bias[:, self.index].sum(0)
        if self.ready is None:
            self.ready = self.bias * 2
        return x + self.cache[key] + self.ready.sum()


def test_caches_of_modules(mode, replays):
    model, x = Caching().eval(), torch.randn(2, 3)
    replays(model, x, x + 1, mode=mode)
    assert model.cache == {}
    assert model.ready is None
    assert type(model(x)) is torch.Tensor
    filled = model.cache["cpu"]
    graph = trace(model, x, mode=mode)
    assert model.cache["cpu"] is filled
    assert "cache.cpu" in {value.name for value in graph.values}


@functools.lru_cache(maxsize=4)
def table(n: int) -> torch.Tensor:
    return torch.arange(n) * 2


@functools.lru_cache(maxsize=4)
def harmless(n: int) -> int:
    return n + 1


class Cached(nn.Module):
    def forward(self, x):
        return x + table(3) * harmless(1)


def test_function_caches_keep_no_fake_tensors():
    table.cache_clear()
    model, x = Cached(), torch.ones(3)
    graph = trace(model, x)
    assert graph.mode == "fake"
    assert any("table" in note and "cleared" in note for note in graph.notes)
    assert harmless.cache_info().currsize == 1
    assert torch.equal(model(x), torch.tensor([1.0, 5.0, 9.0]))


def kept(function):
    """A decorator that hides its cache in a closure, as some libraries have it."""
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return cached(*args)

    wrapper.peek = cached.cache_info
    return wrapper


@kept
def hidden_table(n: int) -> torch.Tensor:
    return torch.arange(n) * 3


class CachedMethods(nn.Module):
    @staticmethod
    @functools.lru_cache(maxsize=4)
    def shared(n: int) -> torch.Tensor:
        return torch.ones(n)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - what is tested
    def own(self, n: int) -> torch.Tensor:
        return torch.ones(n) * 2

    def forward(self, x):
        return x + hidden_table(3) + self.shared(3) + self.own(3)


def test_caches_in_closures_and_methods_keep_no_fake_tensors():
    model, x = CachedMethods(), torch.ones(3)
    graph = trace(model, x)
    assert graph.mode == "fake"
    assert sum("was cleared" in note for note in graph.notes) == 3
    assert hidden_table.peek().currsize == 0
    assert torch.equal(model(x), torch.tensor([4.0, 7.0, 10.0]))
    assert hidden_table.peek().currsize == 1
    again = trace(model, x)  # with real tensors in the caches: they stay
    assert not any("was cleared" in note for note in again.notes)
    assert hidden_table.peek().currsize == 1


def test_replaced_parameter_data_is_put_back(mode):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x):
            self.w.data = torch.zeros(3) + 5
            return self.w * x

    model = Net()
    w = model.w
    graph = trace(model, torch.ones(3), mode="auto" if mode == "fake" else mode)
    assert model.w is w
    assert type(model.w) is nn.Parameter
    assert torch.equal(model.w.detach(), torch.ones(3))
    assert model.w.device.type == "cpu"
    assert torch.equal(graph.replay(), torch.full((3,), 5.0))


def test_gradients_are_kept(mode):
    model = nn.Linear(3, 3)
    model(torch.ones(1, 3)).sum().backward()
    grad = model.weight.grad
    trace(model, torch.randn(2, 3), mode=mode)
    assert model.weight.grad is grad


def test_two_traces_are_equal(mode):
    model = Restless().eval()
    x = torch.randn(3, 4)
    a, b = trace(model, x, mode=mode), trace(model, x, mode=mode)
    assert [op.name for op in a.ops] == [op.name for op in b.ops]
    torch.testing.assert_close(a.replay(), b.replay())
