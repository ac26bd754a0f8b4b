"""Masked convolutions as layers (see `convolution` for how they are computed)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deepstruct.sparse.convolution import Geometry, check_images, convolve, dense
from deepstruct.sparse.masked import MaskedLayer


class _MaskedConv(MaskedLayer):
    """What both have in common; the mask has the weight's shape (out, in / groups, *kernel)."""

    _axes: int
    weight: nn.Parameter
    bias: nn.Parameter | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    _reversed_padding_repeated_twice: list[int]

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self._axes, self.weight.shape[1] * self.groups)
        self._note_input(x)
        x, geometry = self.placed(x)
        if self._masks_as_params:
            return dense(x, self._soft_weight(), self.bias, geometry)
        return convolve(x, self.weight, self._mask, self.bias, geometry, self.backend)

    def placed(self, x: Tensor) -> tuple[Tensor, Geometry]:
        """The input, padded already where that is not by zeros, and how windows lie on it."""
        padding = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * self._axes
        return x, Geometry(self.stride, padding, self.dilation, self.groups)


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
