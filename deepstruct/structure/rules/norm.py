"""Normalizations: one to one by default, or through one statistics unit per group."""

from __future__ import annotations

import torch

from deepstruct.errors import ModelStateError
from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


@rules.op("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
          "miopen_batch_norm", "_batch_norm_no_update", "_batch_norm_with_update")  # fmt: skip
def batch_norm(b: Builder, node: Node) -> list[Signal | None]:
    """Batch norm in evaluation mode is a scale per channel: linear, and one to one."""
    x = node.arg(0, "input")
    training = "no_training" not in node.name and node.name != "_batch_norm_no_update"
    if training and node.name != "_batch_norm_with_update":
        flag = node.arg(5, "training") if len(node.args) > 5 else node.kwargs.get("training", True)
        training = bool(flag)
    if training:
        where = b.where[0] or "the model"
        raise ModelStateError(
            f"batch norm at {where!r} is in training mode: it couples the samples of a batch, so one sample has no "
            "structure of its own. Call model.eval() first."
        )
    return [scaled(b, x.signal, node.arg(1, "weight"), node.arg(2, "bias"), channel=1)]


def scaled(b: Builder, x: Signal, weight: Arg | None, bias: Arg | None, channel: int) -> Signal:
    """A scale per channel: a scale of exactly zero cuts the unit off."""
    if not isinstance(weight, Arg):
        return b.one_to_one(x, linear=True, keeps_zero=False)
    zeros = weight.zeros()
    if zeros is None:
        return b.one_to_one(x, linear=True, keeps_zero=False)
    shape = [1] * len(x.shape)
    shape[channel] = x.shape[channel]
    dead = zeros.view(shape)
    shift = bias.tensor() if isinstance(bias, Arg) and bias.known() else torch.zeros_like(zeros, dtype=torch.float32)
    b.note("some normalization scales are exactly zero: the units behind them are cut off")
    out = b.one_to_one(x, linear=True, keeps_zero=False)
    out = out.filled(dead & (shift != 0).view(shape), CONST)
    return out.filled(dead & (shift == 0).view(shape), -2)


@rules.op("native_layer_norm")
@rules.function("rms_norm")
def layer_norm(b: Builder, node: Node) -> list[Signal | None]:
    """Layer and RMS norm over the last axes."""
    x = node.arg(0, "input").signal
    if x is None:
        return NotImplemented
    rank = len(node.arg(1, "normalized_shape"))
    out = b.statistics(x, range(len(x.shape) - rank, len(x.shape)))
    return [_scaled_tail(b, out, node.arg(2, "weight"))]


@rules.op("renorm")
def renorm(b: Builder, node: Node) -> list[Signal | None]:
    """Slices along one axis are scaled until their norm is small enough: statistics over all other axes."""
    x, axis = node.arg(0, "input").signal, node.arg(2, "dim")
    if x is None:
        return NotImplemented
    rank = len(x.shape)
    return [b.statistics(x, [k for k in range(rank) if k != axis % rank])]


def _scaled_tail(b: Builder, x: Signal, weight: Arg | None) -> Signal:
    if not isinstance(weight, Arg) or weight.signal is not None:
        return x
    zeros = weight.zeros()
    if zeros is None:
        return x
    b.note("some normalization scales are exactly zero: the units behind them are cut off")
    return x.filled(zeros, CONST)


@rules.op("native_group_norm")
def group_norm(b: Builder, node: Node) -> list[Signal | None]:
    """Group norm: statistics over a group of channels and all positions."""
    x, weight = node.arg(0, "input").signal, node.arg(1, "weight")
    return [_grouped(b, x, node.arg(6, "group"), weight if isinstance(weight, Arg) else None)]


def _grouped(b: Builder, x: Signal, groups: int, weight: Arg | None) -> Signal:
    shape = x.shape
    split = x.mapped(lambda t: t.reshape(shape[0], groups, -1))
    out = x.curved()
    if b.settings.normalization == "stats":
        out = b.statistics(split, [2]).mapped(lambda t: t.reshape(shape))
    zeros = weight.zeros() if weight is not None else None
    if zeros is None:
        return out
    b.note("some normalization scales are exactly zero: the units behind them are cut off")
    view = [1, -1] + [1] * (len(shape) - 2)
    return out.filled(zeros.view(view), CONST)


@rules.function("instance_norm")
def instance_norm(b: Builder, node: Node) -> list[Signal | None]:
    """Instance norm: statistics per channel over the positions of one sample, in either mode."""
    x = node.arg(0, "input")
    if x.signal is None:
        return NotImplemented
    signal = x.signal
    dims = list(range(2, len(signal.shape)))
    return [b.statistics(signal, dims) if dims else signal.curved()]


@rules.module("torch.nn.modules.instancenorm:_InstanceNorm")
def instance_norm_module(b: Builder, node: Node) -> list[Signal | None]:
    """Instance norm as a module: it arrives as batch norm in training mode, and is none."""
    x = node.signals()[0]
    rank = {"InstanceNorm1d": 1, "InstanceNorm2d": 2, "InstanceNorm3d": 3}.get(type(node.module).__name__)
    rank = rank or len(x.shape) - 2
    return [b.statistics(x, range(len(x.shape) - rank, len(x.shape)))]
