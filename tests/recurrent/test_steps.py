"""One step of the gated cells: the kernels against plain PyTorch, and both as operators."""

from __future__ import annotations

import pytest
import torch

from deepstruct.sparse import extension, recurrent_reference
from deepstruct.sparse import ops as _ops  # noqa: F401  (defines torch.ops.deepstruct)

STEPS = torch.ops.deepstruct
BLOCKS = {"lstm": 4, "gru": 3}
SHAPES = [(1, 1), (3, 5), (17, 16), (40, 33), (300, 32), (0, 4), (4, 0)]


def operands(name, hidden, batch, dtype, between=0):
    """What an operator takes; gradients of gates are rows with others between them, where `between` is not zero."""
    cell = name.split("_")[0]
    rows = BLOCKS[cell] * hidden

    def drawn(rows):
        return torch.randn(rows, batch, dtype=dtype)

    def apart():
        return torch.full((rows, 1 + between, batch), 7, dtype=dtype)[:, between // 2]

    if name == "lstm_forward_":
        return [drawn(rows), drawn(hidden), drawn(hidden), drawn(hidden)]
    if name == "gru_forward_":
        return [drawn(rows), drawn(rows), drawn(hidden), drawn(hidden)]
    activations = drawn(rows).sigmoid()
    if name == "lstm_backward_":
        return [activations, *(drawn(hidden) for _ in range(4)), apart()]
    return [activations, drawn(rows), drawn(hidden), drawn(hidden), apart(), apart()]


NAMES = ["lstm_forward_", "lstm_backward_", "gru_forward_", "gru_backward_"]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_plain_operations(name, dtype, shape):
    for between in (0, 3):
        given = operands(name, *shape, dtype, between)
        same = [t.clone() for t in given]
        getattr(STEPS, name)(*given)
        getattr(recurrent_reference, name)(*same)
        for found, wanted in zip(given, same, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_operators(name):
    torch.library.opcheck(getattr(STEPS, name).default, tuple(operands(name, 6, 5, torch.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_threads_change_nothing(name):
    given = operands(name, 600, 40, torch.float32, 1)
    same = [t.clone() for t in given]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        getattr(STEPS, name)(*given)
        torch.set_num_threads(3)
        getattr(STEPS, name)(*same)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(given, same, strict=True))


def test_special_numbers():
    """NaN stays NaN, and numbers of any size have the limits of the functions."""
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0])
    gates, c = x.repeat(4).view(4, 6), torch.zeros(1, 6)
    new_h, new_c = torch.empty(1, 6), torch.empty(1, 6)
    STEPS.lstm_forward_(gates, c, new_h, new_c)
    nan = float("nan")
    torch.testing.assert_close(gates[0], torch.tensor([nan, 1, 0, 1, 0, 0.5]), equal_nan=True, rtol=0, atol=1e-30)
    torch.testing.assert_close(gates[2], torch.tensor([nan, 1, -1, 1, -1, 0]), equal_nan=True, rtol=0, atol=0)
    assert new_h[0, 0].isnan()
    assert new_c[0, 0].isnan()


@pytest.mark.skipif(extension.path() is None, reason="the checks are those of the kernels")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: [t[0][1:], *t[1:]],
        lambda t: [t[0].t().contiguous().t(), *t[1:]],
        lambda t: [t[0], t[1].double(), *t[2:]],
        lambda t: [*t[:5], torch.zeros(5, 24).t()],
        lambda t: [*t[:5], torch.zeros(1, 5).expand(24, 5)],
    ],
    ids=["rows", "strides", "dtype", "columns", "overlapping"],
)
def test_what_does_not_fit_is_refused(spoil):
    with pytest.raises(RuntimeError, match="deepstruct: "):
        STEPS.lstm_backward_(*spoil(operands("lstm_backward_", 6, 5, torch.float32)))
