"""An operation of our own, a layer that uses it, and the rule that says how it wires units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepstruct.structure.builder import Builder
    from deepstruct.structure.node import Node
    from deepstruct.structure.signal import Signal


@torch.library.custom_op("deepstruct_example::exchange", mutates_args=())
def exchange(x: Tensor, stride: int) -> Tensor:
    """Each feature, gated by its partner: x[..., i] * sigmoid(x[..., i ^ stride])."""
    return x * torch.sigmoid(x[..., partners(x.shape[-1], stride)])


@exchange.register_fake
def _(x: Tensor, stride: int) -> Tensor:
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    x, ctx.stride = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (x,) = ctx.saved_tensors
    other = partners(x.shape[-1], ctx.stride)
    gate = torch.sigmoid(x[..., other])
    # Feature i is the partner of its own partner, where it acts through the gate's derivative.
    return gradient * gate + (gradient * x * gate * (1 - gate))[..., other], None


exchange.register_autograd(_backward, setup_context=_setup)


def partners(features: int, stride: int) -> Tensor:
    """Index of the partner of each feature. ValueError unless `stride` pairs all features up."""
    other = torch.arange(features) ^ stride
    if features == 0 or stride < 1 or int(other.max()) >= features:
        raise ValueError(f"stride {stride} does not pair up {features} features")
    return other


class Exchange(nn.Module):
    """Gates every feature by its partner at distance `stride` (a power of two)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as the input, whose last axis holds the features."""
        return exchange(x, self.stride)


def wire_exchange(builder: Builder, node: Node) -> Signal:
    """Each unit reads two elements: its own and its partner's."""
    (signal,) = node.signals()
    stride = int(node.arg(1, "stride"))
    here = torch.arange(signal.index.numel()).reshape(signal.shape)
    there = here[..., partners(signal.shape[-1], stride)]
    rows = torch.cat([here.reshape(-1), there.reshape(-1)])
    columns = here.reshape(-1).repeat(2)
    return builder.sparse(signal, signal.shape, rows, columns, kind="exchange")
