"""In-place operations, views and outputs: the record is functional all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepstruct.trace import trace


class Lambda(nn.Module):
    def __init__(self, fn: Callable[..., object], **tensors: torch.Tensor) -> None:
        super().__init__()
        self.fn = fn
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, *args: torch.Tensor) -> object:
        return self.fn(self, *args) if self._buffers else self.fn(*args)


def view_written_through(x):
    x = x * 2
    y = x.view(-1)
    y.add_(1)
    return x.sum(0), y * x.reshape(-1)


def transposed_view(x):
    x = x + 0
    t = x.t()
    t[1] += 10
    t.mul_(2)
    return x, t, x.t().contiguous().view(-1)


def slice_assignment(x):
    y = torch.zeros(4, 5)
    y[:, 1:3] = x[:, :2]
    y[2] = 7.0
    y[y > 6] = -1.0
    y[[0, 1], [2, 3]] = x[0, :2]
    return y


def strided_slices(x):
    y = x.clone()
    y[::2, 1::2].mul_(3)
    y.diagonal().fill_(5)
    y.flatten()[3:6] = 0
    return y, y[1]


def out_arguments(x):
    y = torch.empty(4, 5)
    torch.add(x, 1, out=y)
    z = torch.empty(0)
    torch.mul(x, 2, out=z)
    w = torch.zeros(4, 5)
    torch.sub(x[:2], 1, out=w[1:3])
    return y, z, w


def two_views(x):
    x = x.clone()
    a, b = x[:2], x[1:3]
    a += b * 1
    b -= 1
    return x, a, b


def chunks(x):
    parts = list(x.clone().chunk(2, dim=1))
    parts[0].relu_()
    return torch.cat(parts, 1), parts[0]


def unsqueezed_in_place(x):
    y = x.clone()
    y.unsqueeze_(0)
    y.transpose_(1, 2)
    y.add_(1)
    z = y.squeeze(0)
    z.mul_(2)
    y.squeeze_()
    return y, z


def detached(x):
    x = x * 1
    d = x.detach()
    d.add_(5)
    e = x.data
    e.mul_(2)
    return x, d


def swapped_storage(x):
    y = torch.zeros(2)
    y.set_(x * 2)
    y.add_(1)
    return y


def resized(x):
    y = x.clone()
    y.resize_(2, 3)
    return y * 2


def strided(x):
    y = x.clone()
    windows = torch.as_strided(y, (3, 2), (2, 1), 1)
    y.add_(1)
    return windows * 2, torch.as_strided(y, (3, 2), (2, 1), 1), windows


def copied(x):
    y = torch.zeros(4, 5, dtype=torch.float64)
    y.copy_(x)
    y.t().copy_(x.t() + y.t())
    return y


def index_writes(x):
    y = torch.zeros(6, 5)
    y.index_add_(0, torch.tensor([0, 2, 2, 5]), x)
    y.index_put_((torch.tensor([1, 1]),), x[:2], accumulate=True)
    y.scatter_(1, torch.tensor([[0], [1], [2], [3], [4], [0]]), 9.0)
    y.masked_fill_(y == 9, 8)
    return y


def expanded(x):
    y = x[:, :1].expand(4, 5)
    z = y + 1
    z += y
    return z, y


def complex_parts(x):
    z = torch.complex(x, x * 2)
    r = torch.view_as_real(z)
    r[..., 0] += 1
    z.imag.mul_(3)
    w = z.conj()
    z.mul_(2)
    return z.real, w.imag, w.resolve_conj(), torch.view_as_real(w.resolve_conj())


def conjugate_written(x):
    z = torch.complex(x, x + 1)
    c = z.conj()
    c.add_(1j)
    return z, c, c.imag


def real_seen_as_complex(x):
    y = x[:, :4].clone()
    z = torch.view_as_complex(y.view(4, 2, 2))
    z.mul_(1j)
    y += 1
    return y, z


def swapped(x):
    a, b = x.clone(), x + 1
    a, b = b, a
    a += b * 1
    return a, b


def relu_after_use(x):
    y = x + 1
    s = y.sum()
    F.relu_(y)
    return s, y, F.relu(y, inplace=True)


CASES = [
    view_written_through, transposed_view, slice_assignment, strided_slices, out_arguments, two_views, chunks,
    unsqueezed_in_place, detached, swapped_storage, resized, strided, copied, index_writes, expanded,
    complex_parts, conjugate_written, real_seen_as_complex, swapped, relu_after_use,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda f: f.__name__)
def test_mutation(case, mode, replays):
    graph = replays(Lambda(case), torch.randn(4, 5), torch.randn(4, 5), mode=mode)
    assert graph.notes == []


def test_bit_cast_view_is_recorded(mode, replays):
    replays(Lambda(lambda x: x.view(torch.int32) + 1), torch.randn(4, 5), torch.randn(4, 5), mode=mode)


class Buffered(nn.Module):
    """Writes slices of a buffer, counts its calls, and keeps a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(6, 5))
        self.register_buffer("calls", torch.tensor(3))
        self.register_buffer("mean", torch.ones(5))

    def forward(self, x):
        self.calls += 1
        self.cache[1:5] = x
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        self.cache[0].add_(self.mean)
        return self.cache.sum(1), self.calls * 2, self.cache


def test_buffers_are_written_in_the_record_only(mode, replays):
    model = Buffered()
    cache = model.cache
    replays(model, torch.randn(4, 5), torch.randn(4, 5), mode=mode)
    assert model.cache is cache
    assert model.calls.item() == 3
    assert not cache.any()


def test_batch_norm_statistics_in_training_mode(mode, replays):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5)

        def forward(self, x):
            return (
                self.norm(x),
                self.norm.running_mean * 2,
                self.norm.running_var,
                self.norm.num_batches_tracked,
            )

    model = Net().train()
    graph = replays(model, torch.randn(4, 5), torch.randn(4, 5), mode=mode)
    assert torch.equal(model.norm.running_mean, torch.zeros(5))
    norm = next(op for op in graph.ops if op.name == "native_batch_norm")
    assert norm.mutates == (3, 4)
    assert len(norm.outputs) == 5


class Flat(nn.Module):
    """Three parameters and buffers in one storage; one of them is written."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.arange(30.0)
        self.a = nn.Parameter(flat[:20].view(4, 5))
        self.b = nn.Parameter(flat[20:].view(2, 5))
        self.register_buffer("c", flat[15:25].view(2, 5))

    def forward(self, x):
        y = x @ self.a.t() + self.b.sum()
        self.c.add_(1)
        return y, self.a * 2, self.c, self.b


def test_parameters_that_share_one_storage(mode):
    model, x = Flat(), torch.randn(4, 5)
    graph = trace(model, x, mode=mode)
    assert len({graph.parameters["a"], graph.parameters["b"], graph.buffers["c"]}) == 3
    assert torch.equal(model.a.detach().reshape(-1), torch.arange(20.0))
    replayed = graph.replay()
    with torch.no_grad():
        for expected, got in zip(model(x), replayed, strict=True):
            torch.testing.assert_close(got, expected)


def test_written_input_is_not_the_callers(mode, replays):
    replays(Lambda(lambda x: x.mul_(2)), torch.randn(4, 5), torch.randn(4, 5), mode=mode)


def test_the_same_tensor_as_two_inputs(mode, replays):
    x = torch.randn(4, 5)
    graph = replays(Lambda(lambda a, b: a - 2 * b), (x, x), (torch.randn(4, 5), torch.randn(4, 5)), mode=mode)
    assert len(set(graph.inputs)) == 2


def test_no_op_views_are_not_recorded(mode, replays):
    graph = replays(Lambda(lambda x: x.detach().view(4, 5)[:, :].expand(4, 5) + 1), torch.randn(4, 5), mode=mode)
    assert [op.name for op in graph.ops] == ["add"]


def test_in_place_ops_keep_their_names_and_say_what_they_write(mode, replays):
    def run(x):
        y = x + 1
        y.mul_(2)
        torch.add(x, y, out=y)
        return y & 1 if not y.is_floating_point() else y

    graph = replays(Lambda(run), torch.randn(4, 5), mode=mode)
    assert [(op.name, op.mutates) for op in graph.ops] == [("add", ()), ("mul", (0,)), ("add", ("out",))]


def test_sparse_tensors(mode, replays):
    def run(x):
        sparse = x.to_sparse()
        return torch.sparse.mm(sparse, torch.ones(5, 2)), (sparse * 2).to_dense()

    replays(Lambda(run), torch.randn(4, 5).relu(), mode="auto" if mode == "fake" else mode)
