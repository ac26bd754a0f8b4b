"""Masked convolutions as functions: dense ones that leave out dead channels, or products over the support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deepstruct.errors import InputError
from deepstruct.sparse import calibration, extension
from deepstruct.sparse.checks import check_backend, check_mask
from deepstruct.sparse.functional import _transformed
from deepstruct.sparse.plan import Plan, SparseProduct, plan_of

Sizes = int | Sequence[int]


class Geometry(NamedTuple):
    """How windows lie: one number per axis (`padding` may be "same" or "valid"), and the groups of channels."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int


def masked_conv1d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """`torch.nn.functional.conv1d(x, weight * mask, ...)`, without the work for what is masked.

    `x` is (N, C, L) or (C, L), `weight` and the boolean `mask` are (out, C / groups, kernel); the result is
    (N, out, L') or (out, L'). The gradient of `weight` is zero where `mask` is false. `backend`: "dense" leaves
    out channels that are masked as a whole, "sparse" gathers windows and multiplies on the support (CPU, float32
    and float64, one group), "auto" takes what was measured to be faster here (see `calibration`).
    Raises InputError for arguments that do not fit. What is kept of a mask: see `masked_linear`.
    """
    geometry = _geometry(1, stride, padding, dilation, groups)
    return _checked(1, x, weight, mask, bias, geometry, backend)


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    backend: str = "auto",
) -> Tensor:
    """`torch.nn.functional.conv2d(x, weight * mask, ...)`, without the work for what is masked.

    `x` is (N, C, H, W) or (C, H, W), `weight` and the boolean `mask` are (out, C / groups, kernel height, kernel
    width); the result is (N, out, H', W') or (out, H', W'). Else as `masked_conv1d`.
    """
    geometry = _geometry(2, stride, padding, dilation, groups)
    return _checked(2, x, weight, mask, bias, geometry, backend)


def check_images(x: Tensor, axes: int, channels: int) -> None:
    """An input of a convolution: floats, (N, C, ...) or (C, ...), with so many channels."""
    if not x.is_floating_point() or x.dim() not in (axes + 1, axes + 2):
        raise InputError(f"the input is {x.dtype} of shape {tuple(x.shape)}, expected floats (N, C, ...)")
    if x.shape[-axes - 1] != channels:
        raise InputError(f"the input has shape {tuple(x.shape)}, expected {channels} channels")


def convolve(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, geometry: Geometry, backend: str
) -> Tensor:
    """The convolution behind functions and layers, of arguments that fit; `x` is (N, C, ...) or (C, ...)."""
    axes = weight.dim() - 2
    single = x.dim() == axes + 1
    x = x.unsqueeze(0) if single else x
    if _transformed():
        y = dense(x, weight * mask, bias, geometry)
    elif _runs_sparse(x, weight, mask, geometry, backend):
        extension.tell_once()
        y = _unfolded(x, weight, mask, bias, geometry)
    else:
        y = _without_dead_channels(x, weight, plan_of(mask), bias, geometry)
    return y.squeeze(0) if single else y


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """torch's own convolution."""
    function: Any = F.conv1d if weight.dim() == 3 else F.conv2d
    return function(x, weight, bias, *geometry)


def _checked(
    axes: int, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, geometry: Geometry, backend: str
) -> Tensor:
    check_backend(backend)
    if weight.dim() != axes + 2:
        shape = tuple(weight.shape)
        raise InputError(f"the weight has shape {shape}, expected (out, in / groups) and {axes} axes of the kernel")
    if geometry.groups < 1 or weight.shape[0] % geometry.groups:
        raise InputError(f"{weight.shape[0]} output channels do not make {geometry.groups} groups")
    check_mask(mask, weight.shape, weight.device)
    check_images(x, axes, weight.shape[1] * geometry.groups)
    if x.device != weight.device:
        raise InputError(f"the input is on {x.device}, the weight on {weight.device}: move one of them")
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise InputError(f"the bias has shape {tuple(bias.shape)}, expected ({weight.shape[0]},)")
    return convolve(x, weight, mask, bias, geometry, backend)


def _geometry(axes: int, stride: Sizes, padding: Sizes | str, dilation: Sizes, groups: int) -> Geometry:
    def each(sizes: Sizes, name: str, least: int) -> tuple[int, ...]:
        found = (sizes,) * axes if isinstance(sizes, int) else tuple(sizes)
        if len(found) == 1:
            found *= axes
        if len(found) != axes or min(found) < least:
            raise InputError(f"{name}={sizes!r}: write one number, at least {least}, or one per axis ({axes})")
        return found

    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise InputError(f"padding={padding!r}: write numbers, 'same' or 'valid'")
    strides = each(stride, "stride", 1)
    if padding == "same" and strides != (1,) * axes:
        raise InputError(f"padding='same' goes with a stride of 1, got {stride!r}")
    pads = padding if isinstance(padding, str) else each(padding, "padding", 0)
    return Geometry(strides, pads, each(dilation, "dilation", 1), groups)


def _runs_sparse(x: Tensor, weight: Tensor, mask: Tensor, geometry: Geometry, backend: str) -> bool:
    able = geometry.groups == 1 and x.device.type == "cpu" and x.dtype == weight.dtype
    able = able and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    if backend == "sparse" and not able:
        raise InputError(
            f"a sparse convolution runs on the CPU in float32 or float64, ungrouped; here: "
            f"{x.device}, {x.dtype}, {geometry.groups} groups"
        )
    if backend != "auto":
        return backend == "sparse"
    return able and calibration.convolution_pays(len(weight), weight.numel(), lambda: plan_of(mask).density())


def _without_dead_channels(
    x: Tensor, weight: Tensor, plan: Plan, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Channels whose kernels are all masked are neither read nor computed."""
    weight = weight * plan.float_mask(weight)
    channels = plan.alive_channels() if geometry.groups == 1 else None
    if channels is None:
        return dense(x, weight, bias, geometry)
    rows, cols = channels
    if len(rows) == 0 or len(cols) == 0:
        rows, cols = rows.new_zeros(1), cols.new_zeros(1)  # one masked kernel: zeros of the right shape
    y = dense(x.index_select(1, cols), weight.index_select(0, rows).index_select(1, cols), None, geometry)
    out = y.new_zeros(y.shape[0], len(weight), *y.shape[2:]).index_add(1, rows, y)
    return out if bias is None else out + bias.view(-1, *[1] * (weight.dim() - 2))


def padded(x: Tensor, kernel: Sequence[int], geometry: Geometry) -> Tensor:
    """The input (N, C, *size) with the zeros around it that windows reach into."""
    pads: list[int] = []  # the last axis first, each before and after
    for axis in reversed(range(len(kernel))):
        if isinstance(geometry.padding, str):
            total = geometry.dilation[axis] * (kernel[axis] - 1) if geometry.padding == "same" else 0
            pads += [total // 2, total - total // 2]
        else:
            pads += [geometry.padding[axis]] * 2
    return F.pad(x, pads) if any(pads) else x


def _unfolded(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Windows as rows, times the sparse (out, in * kernel) matrix."""
    kernel = tuple(weight.shape[2:])
    x = padded(x, kernel, geometry)
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, d, s in zip(x.shape[2:], kernel, geometry.dilation, geometry.stride, strict=True)
    ]
    lift = (lambda size: (1, *size)) if len(kernel) == 1 else tuple
    image = x.unsqueeze(2) if len(kernel) == 1 else x
    windows = F.unfold(image, lift(kernel), lift(geometry.dilation), 0, lift(geometry.stride))
    rows = windows.transpose(1, 2).reshape(-1, windows.shape[1])
    product = SparseProduct.apply(rows, weight.flatten(1), mask, bias, plan_of(mask))
    return product.view(len(x), math.prod(sizes), len(weight)).transpose(1, 2).reshape(len(x), len(weight), *sizes)
