"""Complex numbers and Fourier transforms: a complex number is one unit."""

from __future__ import annotations

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


@rules.op("view_as_complex")
def view_as_complex(b: Builder, node: Node) -> Signal:
    """Pairs of real units become the sum of the two: one complex unit."""
    (x,) = node.signals()
    return b.merge([x.mapped(lambda t: t[..., 0]), x.mapped(lambda t: t[..., 1])], additive=True)


@rules.op("view_as_real")
def view_as_real(b: Builder, node: Node) -> Signal:
    """Real and imaginary part of one unit."""
    (x,) = node.signals()
    return x.mapped(lambda t: t.unsqueeze(-1).expand(*t.shape, 2))


@rules.op("complex", "polar")
def complex_from_parts(b: Builder, node: Node) -> Signal:
    """A complex unit from two parts; a sum for real and imaginary part."""
    assert node.out[0] is not None
    shape = node.out[0].shape
    parts = [a.signal for a in node.args[:2] if isinstance(a, Arg) and a.signal is not None]
    parts = [s.mapped(lambda t: t.expand(shape)) for s in parts]
    if len(parts) == 1:
        return b.one_to_one(parts[0], linear=node.name == "complex", keeps_zero=False)
    return b.merge(parts, additive=node.name == "complex")


@rules.op("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(b: Builder, node: Node) -> Signal:
    """A discrete Fourier transform: every frequency reads all positions along the transformed axes."""
    (x,) = node.signals()
    assert node.out[0] is not None
    out, rank = node.out[0].shape, len(x.shape)
    dims = {d % rank for d in node.arg(1, "dim")}
    axes = [
        torch.ones(out[d], n, dtype=torch.bool) if d in dims and (n, out[d]) != (1, 1) else None
        for d, n in enumerate(x.shape)
    ]
    if all(a is None for a in axes):
        return x
    return b.window(x, axes, kind="reduce", additive=True)
