"""Sampling an image at points of a grid, and the affine grids that spatial transformers sample at."""

from __future__ import annotations

import math

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Identity, Matmul
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


@rules.op("grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
def grid_sample(b: Builder, node: Node) -> Signal:
    """At fixed points: the pixels with a non-zero coefficient. At points that the data gives: any pixel."""
    image, grid = node.arg(0, "input"), node.arg(1, "grid")
    assert node.out[0] is not None
    shape = node.out[0].shape
    n, c, points = shape[0], shape[1], math.prod(shape[2:])
    flat = None if image.signal is None else image.signal.mapped(lambda t: t.reshape(n, c, -1))
    if grid.signal is None and flat is not None:
        empty = _coefficients(node, image, grid) == 0 if grid.known() else None
        return b.mix(flat, None, (None, empty), (n, c, points)).mapped(lambda t: t.reshape(shape))
    space = b.space((n, c, points), "window")
    target = Operand.strided(space.shape, (c * points, points, 1), space.offset)
    if flat is not None:
        b.add(Matmul(b.operand(flat), target))
    axes = grid.shape[-1]
    for axis in range(axes):
        at = grid.signal.mapped(lambda t, axis=axis: t[..., axis].reshape(n, 1, points).expand(n, c, points))
        b.add(Identity(b.operand(at), target))
    return b.signal(space).mapped(lambda t: t.reshape(shape))


def _coefficients(node: Node, image: Arg, grid: Arg) -> torch.Tensor:
    """How much of each pixel a point takes: (batch, pixels, points), by sampling images of one pixel each."""
    assert node.op is not None
    size = image.shape[2:]
    pixels = math.prod(size)
    impulses = torch.eye(pixels, dtype=torch.float64).view(1, pixels, *size).expand(image.shape[0], -1, *size)
    out: torch.Tensor = node.op.target(impulses.contiguous(), grid.tensor().to(torch.float64), *node.args[2:])
    return out.reshape(image.shape[0], pixels, -1)


@rules.op("affine_grid_generator")
def affine_grid(b: Builder, node: Node) -> Signal:
    """A grid from affine matrices: each coordinate is a product of one row with a fixed point."""
    theta = node.arg(0, "theta")
    assert node.op is not None
    assert node.out[0] is not None
    assert theta.signal is not None
    shape = node.out[0].shape
    n, rows, columns = theta.shape
    points = []
    for k in range(columns):
        unit = torch.zeros(1, rows, columns, dtype=torch.float64)
        unit[..., k] = 1
        size = [1, *node.args[1][1:]]
        points.append(node.op.target(unit, size, *node.args[2:])[..., 0].reshape(-1))
    fixed = torch.stack(points)  # (columns, points)
    empty = (fixed == 0).expand(n, *fixed.shape)
    out = b.mix(theta.signal, None, (None, empty), (n, rows, fixed.shape[1]))
    return out.mapped(lambda t: t.transpose(1, 2).reshape(shape))
