"""Which module and which composite each op belongs to."""

from __future__ import annotations

import dataclasses
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from deepstruct.trace import Opaque, Ref, trace


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.fc(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.again = self.block
        self.hidden = [nn.Linear(4, 4)]

    def forward(self, x):
        x = self.block(self.again(x)) * 2
        return self.hidden[0](x)


def test_calls(mode):
    graph = trace(Net(), torch.randn(2, 4), mode=mode)
    modules = [(c.path, c.name, c.depth, c.repeat) for c in graph.calls if c.kind == "module"]
    assert modules == [
        ("", "Net", 0, 0),
        ("block", "Block", 1, 0),
        ("block.fc", "Linear", 2, 0),
        ("block.act", "ReLU", 2, 0),
        ("block", "Block", 1, 1),
        ("block.fc", "Linear", 2, 1),
        ("block.act", "ReLU", 2, 1),
        ("<Linear>", "Linear", 1, 0),
    ]
    assert [graph.path(op) for op in graph.ops if op.name == "add"] == ["block", "block"]
    assert [graph.path(op) for op in graph.ops if op.name == "mul"] == [""]
    for call in graph.calls:
        if call.kind == "module":
            assert isinstance(call.args[0], Ref)
            assert isinstance(call.output, Ref)
    block = graph.calls[1]
    assert [op.name for op in graph.ops[block.start : block.stop]] == ["t", "addmm", "relu", "add"]
    assert block.output.id == graph.ops[block.stop - 1].outputs[0]


def test_functions_nest_in_modules(mode):
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            y = F.softmax(self.norm(x), dim=-1)
            return torch.softmax(y, -1) + y.softmax(-1)

    graph = trace(Attend(), torch.randn(2, 4), mode=mode)
    functions = [(c.name, c.path, c.depth) for c in graph.calls if c.kind == "function"]
    assert functions == [("layer_norm", "norm", 2), *[("softmax", "", 1)] * 3]
    norm = next(c for c in graph.calls if c.name == "layer_norm")
    assert norm.parent == next(c.index for c in graph.calls if c.path == "norm")
    assert graph.values[norm.kwargs["weight"].id if "weight" in norm.kwargs else norm.args[2].id].name == "norm.weight"


def test_kwargs_and_structures(mode):
    Pair = namedtuple("Pair", "left right")

    @dataclasses.dataclass
    class State:
        hidden: torch.Tensor
        steps: int

    class Cache:
        def __init__(self, t: torch.Tensor) -> None:
            self.t = t

    class Inner(nn.Module):
        def forward(self, pair, *, state, cache, flag=True):
            cache.t = cache.t + state.hidden
            return Pair(pair.left + pair.right, State(cache.t, state.steps + 1))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            cache = Cache(x * 2)
            out = self.inner(Pair(x, x + 1), state=State(x * 3, 0), cache=cache)
            return out.left * out.right.hidden + cache.t

    x = torch.randn(3)
    graph = trace(Outer(), x, mode=mode)
    torch.testing.assert_close(graph.replay(), Outer()(x))
    inner = graph.calls[1]
    assert inner.args[0]._fields == ("left", "right")
    assert isinstance(inner.kwargs["cache"], Opaque)
    assert "Cache" in inner.kwargs["cache"].type_name
    assert inner.kwargs["state"]["steps"] == 0
    assert isinstance(inner.output.left, Ref)
    assert inner.output.right["steps"] == 1


def test_hooks_run_within_their_module(mode):
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    x = torch.randn(2, 3)
    graph = trace(model, x, mode=mode)
    assert {graph.path(op) for op in graph.ops} == {"0"}
    torch.testing.assert_close(graph.replay(), model(x))


def test_other_threads_are_not_recorded():
    import threading

    other, x = nn.Linear(3, 3), torch.randn(2, 3)

    class Net(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=lambda: other(torch.ones(1, 3)))
            thread.start()
            thread.join()
            return x + 1

    graph = trace(Net(), x)
    assert [c.name for c in graph.calls] == ["Net"]
    assert [op.name for op in graph.ops] == ["add"]


def test_a_stale_view_that_is_returned_is_read_in_its_call(mode):
    class Inner(nn.Module):
        def forward(self, x):
            y = x * 1
            view = y[1:]
            y.add_(1)
            return view

    graph = trace(nn.Sequential(Inner(), nn.ReLU()), torch.randn(3, 4), mode=mode)
    read = next(op for op in graph.ops if op.name == "alias_read")
    assert graph.path(read) == "0"
