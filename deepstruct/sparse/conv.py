"""Masked convolutions: dense ones that leave out dead channels, or products over the support of the mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepstruct.errors import InputError
from deepstruct.sparse import calibration, extension
from deepstruct.sparse.functional import _transformed
from deepstruct.sparse.masked import MaskedLayer
from deepstruct.sparse.plan import SparseProduct, plan_of


class _MaskedConv(MaskedLayer):
    """What both have in common; the mask has the weight's shape (out, in / groups, *kernel)."""

    _axes: int
    weight: nn.Parameter
    bias: nn.Parameter | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    def forward(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[1] * self.groups
        if not x.is_floating_point() or x.dim() not in (self._axes + 1, self._axes + 2):
            shape = tuple(x.shape)
            raise InputError(f"the input is {x.dtype} of shape {shape}, expected floats (N, C, ...)")
        if x.shape[-self._axes - 1] != channels:
            raise InputError(f"the input has shape {tuple(x.shape)}, expected {channels} channels")
        self._note_input(x)
        single = x.dim() == self._axes + 1
        x = x.unsqueeze(0) if single else x
        y = self._convolve(x)
        return y.squeeze(0) if single else y

    def _convolve(self, x: Tensor) -> Tensor:
        if self._masks_as_params:
            return self._dense(x, self._soft_weight(), self.bias)
        if _transformed():
            return self._dense(x, self.weight * self._mask, self.bias)
        if self._runs_sparse(x):
            extension.tell_once()
            return self._unfolded(self._padded(x))
        return self._without_dead_channels(x)

    def _runs_sparse(self, x: Tensor) -> bool:
        able = self.groups == 1 and x.device.type == "cpu" and x.dtype == self.weight.dtype
        able = able and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if self.backend == "sparse" and not able:
            raise InputError(
                f"a sparse convolution runs on the CPU in float32 or float64, ungrouped; here: "
                f"{x.device}, {x.dtype}, {self.groups} groups"
            )
        if self.backend != "auto":
            return self.backend == "sparse"
        weights = self.weight.numel()
        return able and calibration.convolution_pays(
            len(self.weight), weights, lambda: plan_of(self._mask).density()
        )

    def _padded(self, x: Tensor) -> Tensor:
        pads = self._reversed_padding_repeated_twice
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, pads, mode=mode) if any(pads) else x

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = F.conv1d if self._axes == 1 else F.conv2d
        return convolve(self._padded(x), weight, bias, self.stride, 0, self.dilation, self.groups)

    def _without_dead_channels(self, x: Tensor) -> Tensor:
        """Channels whose kernels are all masked are neither read nor computed."""
        weight = self.weight * self._mask
        if self.groups > 1:
            return self._dense(x, weight, self.bias)
        alive = self._mask.flatten(2).any(2)
        rows, cols = alive.any(1).nonzero().flatten(), alive.any(0).nonzero().flatten()
        if len(rows) == len(alive) and len(cols) == alive.shape[1]:
            return self._dense(x, weight, self.bias)
        if len(rows) == 0 or len(cols) == 0:
            rows, cols = rows.new_zeros(1), cols.new_zeros(1)  # one masked kernel: zeros of the right shape
        y = self._dense(x.index_select(1, cols), weight.index_select(0, rows).index_select(1, cols), None)
        out = y.new_zeros(y.shape[0], len(alive), *y.shape[2:]).index_add(1, rows, y)
        return out if self.bias is None else out + self.bias.view(-1, *[1] * self._axes)

    def _unfolded(self, x: Tensor) -> Tensor:
        """Windows as rows, times the sparse (out, in * kernel) matrix."""
        shape = x.shape[2:]
        x = x.unsqueeze(2) if self._axes == 1 else x
        lift = (lambda size: (1, *size)) if self._axes == 1 else tuple
        windows = F.unfold(x, lift(self.kernel_size), lift(self.dilation), 0, lift(self.stride))
        sizes = [
            (n - d * (k - 1) - 1) // s + 1
            for n, k, d, s in zip(shape, self.kernel_size, self.dilation, self.stride, strict=True)
        ]
        rows = windows.transpose(1, 2).reshape(-1, windows.shape[1])
        product = SparseProduct.apply(
            rows, self.weight.flatten(1), self._mask, self.bias, plan_of(self._mask)
        )
        return product.view(len(x), -1, len(self.weight)).transpose(1, 2).reshape(len(x), -1, *sizes)


class MaskedConv1d(_MaskedConv, nn.Conv1d):  # type: ignore[misc]
    """`torch.nn.Conv1d` of which only the weights where `mask` is true exist; arguments as there.

    Channels without any weight are left out of the product; `backend="sparse"` computes on the support.
    """

    _axes = 1

    def __init__(
        self,
        *args: Any,
        keep_layer_input: bool = False,
        mask_as_params: bool = False,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        nn.Conv1d.__init__(self, *args, **kwargs)
        self._init_mask(keep_layer_input, mask_as_params, backend)


class MaskedConv2d(_MaskedConv, nn.Conv2d):  # type: ignore[misc]
    """`torch.nn.Conv2d` of which only the weights where `mask` is true exist; arguments as there.

    Channels without any weight are left out of the product; `backend="sparse"` computes on the support.
    """

    _axes = 2

    def __init__(
        self,
        *args: Any,
        keep_layer_input: bool = False,
        mask_as_params: bool = False,
        backend: str = "auto",
        **kwargs: Any,
    ) -> None:
        nn.Conv2d.__init__(self, *args, **kwargs)
        self._init_mask(keep_layer_input, mask_as_params, backend)
