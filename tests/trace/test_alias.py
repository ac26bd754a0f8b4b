"""Alias reads and writes against torch's own views, and random programs of writes and views."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from deepstruct.trace import alias_read, alias_write, trace

DTYPES = [torch.float32, torch.int64, torch.bool, torch.complex64]


def filled(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    numel = torch.Size(size).numel()
    return torch.arange(1, numel + 1).reshape(size).to(dtype)


VIEWS = {
    "transpose": lambda t: t.t(),
    "slice": lambda t: t[1:3, ::2],
    "row": lambda t: t[2],
    "element": lambda t: t[1, 1],
    "flat": lambda t: t.view(-1),
    "diagonal": lambda t: t.diagonal(),
    "expanded": lambda t: t[:, :1].expand(4, 3),
    "windows": lambda t: t.view(-1).unfold(0, 4, 2),
    "empty": lambda t: t[:0],
    "whole": lambda t: t,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_read_is_the_view(view, dtype):
    base = filled((4, 5), dtype)
    expected = VIEWS[view](base)
    geometry = (expected.shape, expected.stride(), expected.storage_offset())
    got = alias_read(base, base.shape, base.stride(), 0, *geometry)
    assert torch.equal(got, expected)
    shuffled = base.t().contiguous().t()  # the same values with other strides
    assert torch.equal(alias_read(shuffled, (4, 5), (5, 1), 0, *geometry), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", sorted(set(VIEWS) - {"expanded", "windows"}))
def test_write_is_the_write_through_the_view(view, dtype):
    base = filled((4, 5), dtype)
    target = base.clone()
    seen = VIEWS[view](target)
    src = torch.zeros(seen.shape, dtype=dtype)
    got = alias_write(base, src, (4, 5), (5, 1), 0, seen.shape, seen.stride(), seen.storage_offset())
    seen.copy_(src)
    assert torch.equal(got, target)
    assert torch.equal(base, filled((4, 5), dtype))


def test_base_that_is_itself_a_view():
    storage = torch.arange(20.0)
    base = storage.as_strided((3, 2), (4, 2), 3)  # addresses 3 5 7 9 11 13
    got = alias_read(base, (3, 2), (4, 2), 3, (2, 2), (2, 4), 5)
    assert torch.equal(got, storage.as_strided((2, 2), (2, 4), 5))
    outside = alias_read(base, (3, 2), (4, 2), 3, (3,), (1,), 3)
    assert outside.tolist() == [3.0, 0.0, 5.0]


def test_expanded_base_is_written_everywhere():
    base = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    got = alias_write(base, torch.tensor([9.0]), (2, 3), (1, 0), 0, (1,), (1,), 1)
    assert got.tolist() == [[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]


def test_both_can_be_differentiated():
    base = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    src = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    view = ((2, 3), (1, 4), 1)
    assert torch.autograd.gradcheck(lambda b: alias_read(b, (3, 4), (4, 1), 0, *view), (base,))
    assert torch.autograd.gradcheck(lambda b, s: alias_write(b, s, (3, 4), (4, 1), 0, *view), (base, src))


# -- random programs ------------------------------------------------------------------------------

STEPS = {
    "transpose": lambda t, k: t.transpose(0, -1),
    "slice": lambda t, k: t[k % t.shape[0] :],
    "stride": lambda t, k: t[:: 1 + k % 2],
    "select": lambda t, k: t.select(-1, k % t.shape[-1]).unsqueeze(0),
    "narrow": lambda t, k: t.narrow(-1, 0, 1 + k % t.shape[-1]),
    "flatten": lambda t, k: t.reshape(1, -1),
    "clone": lambda t, k: t.clone(),
    "detach": lambda t, k: t.detach(),
    "new": lambda t, k: t * 2 - k,
}
WRITES = {
    "add_": lambda t, k: t.add_(k),
    "mul_": lambda t, k: t.mul_(1 + k / 8),
    "neg_": lambda t, k: t.neg_(),
    "clamp_": lambda t, k: t.clamp_(max=k),
    "fill_": lambda t, k: t.fill_(k),
    "setitem": lambda t, k: t.__setitem__((slice(None), 0), t.sum() * 0.25),
    "row": lambda t, k: t.__setitem__(k % t.shape[0], float(k)),
    "masked": lambda t, k: t.__setitem__(t > k, -1.0),
    "copy_": lambda t, k: t.copy_((t + k).flip(0)),
    "zero_": lambda t, k: t.zero_(),
    "out": lambda t, k: torch.sin(t + k, out=t),
    "unsqueeze_": lambda t, k: t.unsqueeze_(0).squeeze_(0),
}
program = st.lists(
    st.tuples(st.sampled_from([*STEPS, *WRITES]), st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=12,
)


class Program(nn.Module):
    """Runs steps on a growing list of tensors that may alias each other, and returns them all."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("buffer", torch.linspace(-2, 2, 12).view(3, 4))

    def forward(self, x):
        tensors = [x, x + 1, self.buffer]
        for name, which, k in self.steps:
            tensor = tensors[which % len(tensors)]
            if name in STEPS:
                tensors.append(STEPS[name](tensor, k))
            else:
                WRITES[name](tensor, k)
        return tensors


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=program)
def test_random_programs_replay(mode, steps):
    x = torch.linspace(-3, 3, 12).view(3, 4)
    y = torch.linspace(2, -1, 12).view(3, 4)
    model = Program(steps)
    graph = trace(model, x, mode=mode)
    assert torch.equal(model.buffer, torch.linspace(-2, 2, 12).view(3, 4))
    for given_x, replayed in ((x, graph.replay()), (y, graph.replay(y))):
        expected = Program(steps)(given_x.clone())
        assert len(expected) == len(replayed)
        for a, b in zip(expected, replayed, strict=True):
            torch.testing.assert_close(b, a, equal_nan=True)
