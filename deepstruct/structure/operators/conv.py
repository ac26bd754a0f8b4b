"""Convolutions in 1 to 3 dimensions, forward and transposed: only taps that read a real unit are edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property

import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators.base import (
    Edges,
    WeightMode,
    WeightRef,
    alive,
    few_zeros,
    product,
    weights_in,
)
from deepstruct.structure.operators.contraction import Contraction, Live

_CHUNK = 1 << 22  # edges in one piece


class Conv(Contraction):
    """Edges of a convolution, zero-padded.

    Args:
        source: operand of shape (batch, channels in, *spatial).
        target: operand of shape (batch, channels out, *spatial).
        weight: (out, in / groups, *kernel), or (in, out / groups, *kernel) when transposed.
    """

    weight: WeightRef

    def __init__(
        self,
        source: Operand,
        target: Operand,
        weight: WeightRef,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        transposed: bool,
        output_padding: tuple[int, ...],
        groups: int,
        threshold: float = 0.0,
    ) -> None:
        self.source, self.target, self.weight, self.threshold = source, target, weight, threshold
        self.stride, self.padding, self.dilation = tuple(stride), tuple(padding), tuple(dilation)
        self.transposed, self.output_padding, self.groups = transposed, tuple(output_padding), groups
        self.kernel = tuple(weight.tensor.shape[2:])
        self._holes = None if self._dense or groups > 1 else self._find_holes()

    def _read(self, ref: WeightRef) -> Live:
        return Live(ref.tensor, self.threshold, self.groups)

    def _find_holes(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """(input channels, output channels, 0/1 kernels) of a few zero weights; None where there are many."""
        zeros = few_zeros(self.weight.tensor, self.threshold, None if self.live is None else self.live.total)
        if zeros is None:
            return None
        (first, a), (second, b) = (zeros[:, axis].unique(return_inverse=True) for axis in (0, 1))
        if 16 * first.numel() * second.numel() > self.weight.tensor.shape[0] * self.weight.tensor.shape[1]:
            return None
        kernels = torch.zeros(first.numel(), second.numel(), *self.kernel)
        kernels.index_put_((a, b, *zeros[:, 2:].T), torch.ones(()))
        return (first, second, kernels) if self.transposed else (second, first, kernels)

    @property
    def dense(self) -> bool:
        return self._dense

    @property
    def _dense(self) -> bool:
        return self.live is None or self.live.dense

    # -- the dense trick: an all-ones pattern is a sum over channels, one window, and a broadcast

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, *spatial) -> (batch * groups, 1, *spatial), summed over a group's channels."""
        grouped = x.reshape(x.shape[0], self.groups, x.shape[1] // self.groups, *x.shape[2:])
        return grouped.sum(2).reshape(x.shape[0] * self.groups, 1, *x.shape[2:])

    def _spread(self, y: torch.Tensor, batch: int, channels: int) -> torch.Tensor:
        spatial = y.shape[2:]
        y = y.reshape(batch, self.groups, 1, *spatial)
        y = y.expand(batch, self.groups, channels // self.groups, *spatial)
        return y.reshape(batch, channels, *spatial)

    def _run(self, x: torch.Tensor, w: torch.Tensor, groups: int) -> torch.Tensor:
        return torch.ops.aten.convolution(
            x.contiguous(), w, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, groups,
        )  # fmt: skip

    def _vjp(self, y: torch.Tensor, x_shape: tuple[int, ...], w: torch.Tensor, groups: int) -> torch.Tensor:
        like = torch.empty((), dtype=y.dtype).expand(x_shape)
        grad, _, _ = torch.ops.aten.convolution_backward(
            y.contiguous(), like, w, None, self.stride, self.padding, self.dilation,
            self.transposed, self.output_padding, groups, [True, False, False],
        )  # fmt: skip
        return grad

    def forward(self, x: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        if self._dense and mode == "pattern":
            ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype)
            return self._spread(self._run(self._split(x), ones, 1), x.shape[0], self.target.shape[1])
        if self._holes is not None and mode == "pattern":
            inner, outer, kernels = self._holes
            ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype)
            full = self._spread(self._run(self._split(x), ones, 1), x.shape[0], self.target.shape[1])
            return full.index_add(1, outer, self._run(x[:, inner], kernels.to(x.dtype), 1), alpha=-1)
        return self._run(x, weights_in(self.weight, mode, x.dtype, self.threshold), self.groups)

    def backward(self, y: torch.Tensor, mode: WeightMode = "pattern") -> torch.Tensor:
        shape = self.source.shape
        if self._dense and mode == "pattern":
            ones = torch.ones(1, 1, *self.kernel, dtype=y.dtype)
            grad = self._vjp(self._split(y), (shape[0] * self.groups, 1, *shape[2:]), ones, 1)
            return self._spread(grad, shape[0], shape[1])
        if self._holes is not None and mode == "pattern":
            inner, outer, kernels = self._holes
            ones = torch.ones(1, 1, *self.kernel, dtype=y.dtype)
            full = self._spread(self._vjp(self._split(y), (shape[0], 1, *shape[2:]), ones, 1), shape[0], shape[1])
            part = (shape[0], inner.numel(), *shape[2:])
            return full.index_add(1, inner, self._vjp(y[:, outer], part, kernels.to(y.dtype), 1), alpha=-1)
        return self._vjp(y, shape, weights_in(self.weight, mode, y.dtype, self.threshold), self.groups)

    def touches(self, units: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(1, 1, *self.kernel)
        reads = self._run(self._split(units.to(torch.float32)), ones, 1)
        return self._spread(reads, units.shape[0], self.target.shape[1]) > 0

    def weight_usage(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        tensor = self.weight.tensor
        dtype = x.dtype
        _, grad, _ = torch.ops.aten.convolution_backward(
            y.contiguous(), x.contiguous(), torch.empty((), dtype=dtype).expand(tensor.shape), None,
            self.stride, self.padding, self.dilation, self.transposed, self.output_padding,
            self.groups, [False, True, False],
        )  # fmt: skip
        return grad if tensor.is_meta else grad * alive(tensor, self.threshold)

    def used_weights(self) -> torch.Tensor:
        tensor = self.weight.tensor
        used = (self.tap_counts > 0).expand(tensor.shape)
        return used if tensor.is_meta else used & alive(tensor, self.threshold)

    def fan_in(self) -> int:
        return product(self.kernel) * (self.source.shape[1] // self.groups)

    # -- taps

    @cached_property
    def taps(self) -> list[torch.Tensor]:
        """For every axis the (tap, output position, input position) triples that are inside the input."""
        tables = []
        for axis, size in enumerate(self.kernel):
            n_in, n_out = self.source.shape[2 + axis], self.target.shape[2 + axis]
            tap = torch.arange(size)
            if self.transposed:
                here = torch.arange(n_in)
                there = here[None, :] * self.stride[axis] - self.padding[axis] + tap[:, None] * self.dilation[axis]
                k, i = ((there >= 0) & (there < n_out)).nonzero(as_tuple=True)
                tables.append(torch.stack([k, there[k, i], i]))
            else:
                here = torch.arange(n_out)
                there = here[None, :] * self.stride[axis] - self.padding[axis] + tap[:, None] * self.dilation[axis]
                k, o = ((there >= 0) & (there < n_in)).nonzero(as_tuple=True)
                tables.append(torch.stack([k, o, there[k, o]]))
        return tables

    @cached_property
    def tap_counts(self) -> torch.Tensor:
        """Shape of the kernel: at how many positions a tap reads a real element."""
        counts = torch.ones((), dtype=torch.int64)
        for size, table in zip(self.kernel, self.taps, strict=True):
            counts = counts.unsqueeze(-1) * torch.bincount(table[0], minlength=size)
        return counts

    def count(self, source_ok: torch.Tensor | None = None, target_ok: torch.Tensor | None = None) -> int:
        if source_ok is not None or target_ok is not None:
            return super().count(source_ok, target_ok)
        live, tensor = self.live, self.weight.tensor
        if live is None:
            per_tap = self.tap_counts.sum() * (tensor.shape[0] * tensor.shape[1])
        else:
            per_tap = (live.by_column.sum((0, 1)) * self.tap_counts.reshape(-1)).sum()
        return self.source.shape[0] * int(per_tap.item())

    def edges(self) -> Iterator[Edges]:
        tensor = self.weight.tensor
        if tensor.is_meta:
            tensor = torch.ones(tensor.shape)
        live = alive(tensor, self.threshold)
        batch, c_in, *in_shape = self.source.shape
        c_out, out_shape = self.target.shape[1], self.target.shape[2:]
        n_in, n_out = product(in_shape), product(out_shape)
        for tap in itertools.product(*(range(k) for k in self.kernel)):
            out_pos = in_pos = torch.zeros(1, dtype=torch.int64)
            for axis, k in enumerate(tap):
                _, o, i = self.taps[axis][:, self.taps[axis][0] == k]
                out_pos = (out_pos[:, None] * out_shape[axis] + o).reshape(-1)
                in_pos = (in_pos[:, None] * in_shape[axis] + i).reshape(-1)
            if out_pos.numel() == 0:
                continue
            kept, stored = live, tensor.detach()
            for k in reversed(tap):
                kept, stored = kept[..., k], stored[..., k]
            a, b = kept.nonzero(as_tuple=True)
            weight = stored[a, b].to(torch.float64)
            if not self.weighted:
                weight = torch.full_like(weight, float("nan"))
            source_c, target_c = self._channels(a, b, c_in, c_out)
            step = max(1, _CHUNK // out_pos.numel())
            for start in range(0, a.numel(), step):
                part = slice(start, start + step)
                for n in range(batch):
                    source = (n * c_in + source_c[part])[:, None] * n_in + in_pos
                    target = (n * c_out + target_c[part])[:, None] * n_out + out_pos
                    values = weight[part, None].expand(-1, out_pos.numel())
                    yield Edges(source.reshape(-1), target.reshape(-1), values.reshape(-1))

    def _channels(
        self, a: torch.Tensor, b: torch.Tensor, c_in: int, c_out: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and output channel of the weight entries (a, b, ...)."""
        if self.transposed:  # weight is (in, out / groups)
            group = a // (c_in // self.groups)
            return a, group * (c_out // self.groups) + b
        group = a // (c_out // self.groups)
        return group * (c_in // self.groups) + b, a
