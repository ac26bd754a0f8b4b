"""The masked convolutions as functions, against torch's own convolution of weight * mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.errors import InputError
from deepstruct.functional import masked_conv1d, masked_conv2d
from deepstruct.sparse.plan import plan_of

OURS = {1: masked_conv1d, 2: masked_conv2d}
TORCH = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}


def close_to_torch(axes, x, weight, mask, bias, backend, **options):
    operands = [x, weight] + ([bias] if bias is not None else [])
    for operand in operands:
        operand.requires_grad_()
    got = OURS[axes](x, weight, mask, bias, backend=backend, **options)
    wanted = TORCH[axes](x, weight * mask, bias, **options)
    torch.testing.assert_close(got, wanted)
    grad = torch.randn_like(wanted)
    for mine, expected in zip(
        torch.autograd.grad(got, operands, grad), torch.autograd.grad(wanted, operands, grad), strict=True
    ):
        torch.testing.assert_close(mine, expected)


@settings(max_examples=80, deadline=None)
@given(
    axes=st.sampled_from([1, 2]),
    batch=st.integers(0, 3),
    channels=st.sampled_from([(1, 1), (3, 5), (8, 4)]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.sampled_from([0, 1, 2, "same", "valid"]),
    dilation=st.integers(1, 2),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    with_bias=st.booleans(),
    backend=st.sampled_from(["auto", "dense", "sparse"]),
)
def test_functions_equal_torch(
    axes, batch, channels, kernel, stride, padding, dilation, density, with_bias, backend
):
    generator = torch.Generator().manual_seed(3)
    inputs, outputs = channels
    x = torch.randn(batch, inputs, *(9, 8)[:axes], dtype=torch.float64, generator=generator)
    weight = torch.randn(outputs, inputs, *[kernel] * axes, dtype=torch.float64, generator=generator)
    mask = torch.rand(weight.shape, generator=generator) < density
    bias = torch.randn(outputs, dtype=torch.float64, generator=generator) if with_bias else None
    options = {"stride": 1 if padding == "same" else stride, "padding": padding, "dilation": dilation}
    close_to_torch(axes, x, weight, mask, bias, backend, **options)


@pytest.mark.parametrize("backend", ["auto", "dense"])
def test_groups_unbatched_inputs_and_sizes_per_axis(backend):
    weight, mask = torch.randn(6, 2, 3, 2), torch.rand(6, 2, 3, 2) < 0.4
    options = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    close_to_torch(2, torch.randn(4, 9, 7), weight, mask, torch.randn(6), backend, **options)


def test_channels_that_come_and_go_are_noticed():
    x, weight = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    mask = torch.ones(4, 3, 3, dtype=torch.bool)
    close_to_torch(1, x, weight, mask, None, "dense")
    assert plan_of(mask).alive_channels() is None
    mask[1] = False
    mask[:, 2] = False
    close_to_torch(1, x, weight, mask, None, "dense")
    rows, cols = plan_of(mask).alive_channels()
    assert rows.tolist() == [0, 2, 3]
    assert cols.tolist() == [0, 1]
    mask[1, 2, 0] = True
    close_to_torch(1, x, weight, mask, None, "dense")
    assert plan_of(mask).alive_channels() is None


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_gradients_by_finite_differences(backend):
    mask = torch.rand(2, 3, 2, 2) < 0.6
    x, weight = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    operands = (x.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, w: masked_conv2d(x, w, mask, padding=1, backend=backend), operands)


def test_functions_compile_and_map():
    x, weight, mask = torch.randn(3, 2, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.rand(5, 4, 3, 3) < 0.5
    mapped = torch.func.vmap(lambda image: masked_conv2d(image, weight, mask, padding=1))(x)
    wanted = torch.stack([TORCH[2](image, weight * mask, padding=1) for image in x])
    torch.testing.assert_close(mapped, wanted)
    compiled = torch.compile(lambda image: masked_conv2d(image, weight, mask), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x[0]), TORCH[2](x[0], weight * mask))


def test_autocast_runs_in_bfloat16():
    x, weight, mask = torch.randn(2, 4, 8, 8), torch.randn(5, 4, 3, 3), torch.rand(5, 4, 3, 3) < 0.5
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = masked_conv2d(x, weight, mask), TORCH[2](x, weight * mask)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(5, 4, 3, 2, dtype=torch.bool)}, "the mask has shape"),
        ({"mask": torch.ones(5, 4, 3, 3)}, "a mask is boolean"),
        ({"weight": torch.randn(5, 4, 3)}, "2 axes of the kernel"),
        ({"x": torch.randn(2, 3, 8, 8)}, "expected 4 channels"),
        ({"x": torch.ones(2, 4, 8, 8, dtype=torch.int64)}, "expected floats"),
        ({"bias": torch.randn(4)}, "the bias has shape"),
        ({"stride": 0}, "stride=0"),
        ({"dilation": (1, 1, 1)}, "dilation="),
        ({"padding": "wide"}, "padding='wide'"),
        ({"padding": "same", "stride": 2}, "goes with a stride of 1"),
        ({"groups": 2}, "do not make 2 groups"),
        ({"backend": "fast"}, "backend='fast'"),
        ({"backend": "sparse", "x": torch.randn(2, 4, 8, 8, dtype=torch.float64)}, "float32 or float64, ungrouped"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_told(change, message):
    arguments = {
        "x": torch.randn(2, 4, 8, 8), "weight": torch.randn(5, 4, 3, 3),
        "mask": torch.ones(5, 4, 3, 3, dtype=torch.bool),
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        masked_conv2d(**{**arguments, **change})
