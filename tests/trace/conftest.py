"""What the tests of the tracer share: the check that a record replays to what the model computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from deepstruct.trace import OpGraph, trace
from deepstruct.trace.inputs import as_arguments
from deepstruct.trace.tree import leaves


def tensors_of(tree: Any) -> dict[str, torch.Tensor]:
    return {name: leaf for name, leaf in leaves(tree, "output") if isinstance(leaf, torch.Tensor)}


def assert_equal(expected: Any, got: Any) -> None:
    """Equal structures of tensors; inf and nan included."""
    a, b = tensors_of(expected), tensors_of(got)
    assert list(a) == list(b)
    assert a
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-5, equal_nan=True)


def run_plain(model: nn.Module, example: Any) -> Any:
    """The model's own output; run on copies, so that neither is changed."""
    args, kwargs = as_arguments(copy.deepcopy(example))
    with torch.no_grad():
        return copy.deepcopy(model)(*args, **kwargs)


@pytest.fixture(params=["fake", "real"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def replays() -> Callable[..., OpGraph]:
    """Traces a model; checks the replay on the recorded input and on others; returns the graph."""

    def check(model: nn.Module, example: Any, *others: Any, mode: str = "auto", **options: Any) -> OpGraph:
        state = copy.deepcopy(model.state_dict())
        given = copy.deepcopy(example)
        graph = trace(model, example, mode=mode, **options)
        if mode != "auto":
            assert graph.mode == mode
        assert_equal(run_plain(model, example), graph.replay())
        for other in others:
            args, kwargs = as_arguments(other)
            assert_equal(run_plain(model, other), graph.replay(*args, **kwargs))
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0, equal_nan=True)
        if tensors_of(given):
            assert_equal(given, example)
        check_consistent(graph)
        return graph

    return check


def check_consistent(graph: OpGraph) -> None:
    """What holds of every record: single assignment, order, nested calls."""
    made: dict[int, int] = {}
    for op in graph.ops:
        for v in op.outputs:
            if v is not None:
                assert v not in made
                made[v] = op.index
                assert graph.values[v].producer == op.index
                assert graph.values[v].kind == "op"
    for v, users in enumerate(graph.users):
        producer = graph.values[v].producer
        assert all(producer is None or user > producer for user in users)
    for value in graph.values:
        assert (value.producer is None) == (value.kind != "op")
        assert (value.data is None) == (value.kind == "op")
    for call in graph.calls:
        assert 0 <= call.start <= call.stop <= len(graph.ops)
        if call.parent is not None:
            parent = graph.calls[call.parent]
            assert parent.start <= call.start
            assert call.stop <= parent.stop
    for op in graph.ops:
        call = graph.calls[op.call]
        assert call.start <= op.index < call.stop
