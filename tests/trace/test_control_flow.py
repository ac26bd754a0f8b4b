"""Data-dependent control flow and shapes, and data that takes a way around the record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepstruct.errors import CapacityError, TraceError
from deepstruct.trace import trace


class Fn(nn.Module):
    def __init__(self, fn) -> None:
        super().__init__()
        self.fn = fn
        self.fc = nn.Linear(5, 5)

    def forward(self, x):
        return self.fn(x, self.fc)


def branch_on_item(x, fc):
    return fc(x) if x.sum().item() > -1e9 else x * 0


def branch_on_bool(x, fc):
    y = fc(x)
    if (y > 1e9).any():
        return y * 0
    return y * float(bool(y.shape[0]))


def loop_until(x, fc):
    x = x.abs() + 1
    steps = 0
    while x.max().item() < 50:
        x = x * 2
        steps += 1
    return x + steps


def nonzero_rows(x, fc):
    rows = torch.nonzero(x.abs().sum(1)).squeeze(1)
    return fc(x[rows]).sum(0)


def boolean_index(x, fc):
    keep = x.abs().sum(1) > 0
    y = torch.zeros_like(x)
    y[keep] = fc(x[keep])
    return y


def unique_and_counts(x, fc):
    values, counts = torch.unique((x * 0).long().reshape(-1), return_counts=True)
    return fc(x) * counts.sum() + values.float().sum()


def repeated(x, fc):
    return torch.repeat_interleave(fc(x), torch.tensor([1, 0, 2, 1]), dim=0)


def compared(x, fc):
    return fc(x) if not torch.equal(x, x + 1) else x


def counted(x, fc):
    return fc(x).sum() + torch.bincount((x.abs() * 0).long().reshape(-1))


def masked(x, fc):
    return torch.masked_select(fc(x), x * 0 == 0)


@pytest.mark.parametrize(
    "fn",
    [
        branch_on_item, branch_on_bool, loop_until, nonzero_rows, boolean_index, unique_and_counts, repeated,
        compared, counted, masked,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_data_dependent(fn, mode, replays):
    x = torch.randn(4, 5)
    graph = replays(Fn(fn), x, x * 1.01, mode=mode)
    read = any("the input was read" in note for note in graph.notes)
    assert read == (fn is not repeated)


class Mixture(nn.Module):
    """Each token goes to its best expert; only the experts that get tokens run."""

    def __init__(self, width: int = 6, experts: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))

    def forward(self, x):
        weight, choice = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            (rows,) = torch.where(choice == i)
            if rows.numel():
                out[rows] += weight[rows, None] * expert(x[rows])
        return out


def test_mixture_of_experts(mode, replays):
    x = torch.randn(10, 6)
    graph = replays(Mixture(), x, x * 1.0001, mode=mode)
    assert any("nonzero" in note for note in graph.notes)


def test_only_the_slice_that_is_needed_is_evaluated():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big = nn.Linear(4000, 4000, device="meta")  # cannot be evaluated

        def forward(self, x):
            y = self.big(x.repeat(1, 1000))
            return y if x.sum().item() > -1e9 else -y

    graph = trace(Net(), torch.randn(2, 4))
    assert graph.mode == "fake"
    assert graph.values[graph.outputs[0][1]].shape == (2, 4000)


def test_byte_budget_of_data_dependent_ops():
    model = Fn(branch_on_item)
    with pytest.raises(TraceError, match="budget") as caught:
        trace(model, torch.randn(4, 5), mode="fake", byte_budget=1)
    assert isinstance(caught.value.__cause__, CapacityError)
    graph = trace(model, torch.randn(4, 5), byte_budget=1)
    assert graph.mode == "real"
    assert "budget" in graph.notes[0]


def numpy_hop(x, fc):
    return fc(torch.from_numpy(np.sqrt(np.abs(x.numpy()))))


def asarray_hop(x, fc):
    return fc(torch.as_tensor(np.asarray(x) + 1))


@pytest.mark.parametrize("fn", [numpy_hop, asarray_hop])
def test_numpy_hop_falls_back_to_real_and_is_noted(fn):
    model, x = Fn(fn), torch.randn(4, 5)
    graph = trace(model, x)
    assert graph.mode == "real"
    assert graph.notes[0].startswith("traced with real tensors")
    assert any(note.startswith("constant of shape (4, 5)") for note in graph.notes)
    assert any("left the record by Tensor." in note for note in graph.notes)
    torch.testing.assert_close(graph.replay(), model(x))
    with pytest.raises(TraceError):
        trace(model, x, mode="fake")


def test_list_hop_is_noted(mode):
    model, x = Fn(lambda x, fc: fc(torch.tensor(x.tolist()))), torch.randn(4, 5)
    graph = trace(model, x, mode=mode)
    assert any(note.startswith("constant of shape (4, 5)") for note in graph.notes)
    assert not any(graph.input_dependent[v] for _, v in graph.outputs)


def test_numpy_of_a_buffer_is_no_hop(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor([2.0, 3.0]))

        def forward(self, x):
            return x * float(self.scale.numpy().max()) + self.scale[1].item()

    graph = replays(Net(), torch.randn(4), torch.randn(4), mode=mode)
    assert graph.notes == []


GLOBAL = torch.tensor([1.0, 2.0, 3.0])


def test_constants_from_outside_the_model(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = {"a": [torch.ones(3)]}
            self.plain = torch.full((3,), 2.0)

        def forward(self, x):
            return x * self.table["a"][0] + self.plain + GLOBAL

    graph = replays(Net(), torch.randn(3), torch.randn(3), mode=mode)
    constants = {value.name: value for value in graph.values if value.kind == "constant"}
    assert set(constants) == {"table.a.0", "plain", ""}
    assert torch.equal(constants[""].data, GLOBAL)
    assert [("unknown origin" in note) for note in graph.notes] == ([True] if mode == "real" else [])
