"""Linear maps with stored weights, and products of two activations."""

from __future__ import annotations

import math
from typing import Any

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST, MASKED, ZERO, Operand
from deepstruct.structure.operators import Conv, Matmul, WeightRef
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


@rules.op("mm", "bmm", "mv", "dot", "vdot")
def matmul(b: Builder, node: Node) -> Signal:
    """A product of matrices, batches of them, or vectors."""
    left, right = node.arg(0, "self"), node.args[1]
    return product(b, left, right, _shape(node))


@rules.op("addmm", "baddbmm", "addbmm", "addmv", "addr", "_sparse_addmm")
def addmm(b: Builder, node: Node) -> Signal:
    """beta * start + alpha * (a @ b)."""
    start, left, right = node.args[:3]
    shape = _shape(node)
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    constant = start.signal is None
    inner = None
    if _any(left, right) and alpha != 0:
        inner = _inner(b, node.name, left, right, shape, bias=constant and beta != 0)
    if constant or beta == 0:
        if inner is None:
            return Signal(torch.full(shape, ZERO if beta == 0 else CONST))
        masks = constant and beta != 0 and start.known() and not start.data_dependent and not start.dtype.is_complex
        masked = start.tensor() * beta <= b.settings.mask_threshold if masks else None
        return inner if masked is None or not bool(masked.any()) else inner.filled(masked, MASKED)
    first = start.signal.mapped(lambda t: t.expand(shape))
    return first if inner is None else b.merge([first, inner], additive=True)


def _inner(b: Builder, name: str, left: Arg, right: Arg, shape: tuple[int, ...], bias: bool) -> Signal:
    if name == "addr":  # an outer product
        sides = []
        if left.signal is not None:
            sides.append(left.signal.mapped(lambda t: t.unsqueeze(1).expand(shape)))
        if right.signal is not None:
            sides.append(right.signal.mapped(lambda t: t.unsqueeze(0).expand(shape)))
        return sides[0] if len(sides) == 1 else b.merge(sides, product=True)
    if name == "addbmm":  # a sum of products
        many = product(b, left, right, (left.shape[0], *shape))
        return b.reduce(many, [0], additive=True).mapped(lambda t: t.reshape(shape))
    return product(b, left, right, shape, bias=bias)


@rules.function("bilinear")
def bilinear(b: Builder, node: Node) -> Signal:
    """Products of all pairs of features, and a linear map of them."""
    left, right, weight = node.args[:3]
    if weight.signal is not None or not _any(left, right):
        return NotImplemented
    shape = (*_shape(node)[:-1], left.shape[-1], right.shape[-1])
    sides = [a.signal.mapped(lambda t, d=d: t.unsqueeze(d).expand(shape)) for d, a in ((-1, left), (-2, right))
             if a.signal is not None]  # fmt: skip
    pairs = sides[0] if len(sides) == 1 else b.merge(sides, product=True)
    ref = weight.weight()
    matrix = ref._replace(tensor=ref.tensor.reshape(ref.tensor.shape[0], -1).transpose(0, 1))
    return b.matmul(pairs.mapped(lambda t: t.flatten(-2)), matrix, bias=node.arg(3, "bias") is not None)


@rules.op("_grouped_mm")
def grouped(b: Builder, node: Node) -> Signal:
    """Rows sorted by expert, each group times the matrix of its own: which row goes where is control."""
    x, weight, ends = node.arg(0, "self"), node.arg(1, "mat2"), node.arg(2, "offs")
    if x.signal is None or weight.signal is not None or ends is None or (len(x.shape), len(weight.shape)) != (2, 3):
        return NotImplemented
    rows, width = shape = _shape(node)
    ref, space = weight.weight(), b.space(shape, "contraction", additive=True)
    parts, start = [], 0
    for expert, end in enumerate(ends.tensor().tolist()):
        if end > start:
            here = x.signal.mapped(lambda t, a=start, z=end: t[a:z])
            into = b.region(space, start * width, (end - start, width))
            parts.append(b.matmul(here, ref._replace(tensor=ref.tensor[expert]), into=into))
        start = max(start, end)
    if start < rows:  # rows of no group
        parts.append(Signal(torch.full((rows - start, width), ZERO)))
        b.region(space, start * width, (rows - start, width))
    return b.reindex(lambda *t: torch.cat(t), parts)[0]


def product(b: Builder, left: Arg, right: Arg, shape: tuple[int, ...], *, bias: bool = False) -> Signal:
    """left @ right, where either may be an activation, stored weights, or a constant."""
    if left.signal is not None and right.stored:
        return _times_weights(b, left.signal, right, shape, bias)
    if right.signal is not None and left.stored:
        turned = _times_weights(b, _turn(right.signal), left, _turned(shape, right), bias, transposed=True)
        return turned.mapped(lambda t: t.transpose(-1, -2) if len(shape) >= 2 and t.dim() >= 2 else t).mapped(
            lambda t: t.reshape(shape)
        )
    return _mix(b, left, right, shape)


def _times_weights(
    b: Builder, x: Signal, weight: Arg, shape: tuple[int, ...], bias: bool, transposed: bool = False
) -> Signal:
    ref = weight.weight()
    if transposed:
        ref = _transposed(ref)
    vector = ref.tensor.dim() == 1
    if vector:
        ref = ref._replace(tensor=ref.tensor.unsqueeze(-1))
    flat = x.mapped(lambda t: t.unsqueeze(0)) if len(x.shape) == 1 else x
    if ref.tensor.dim() > 2 and ref.tensor.shape[:-2] != flat.shape[:-2]:
        lead = torch.broadcast_shapes(ref.tensor.shape[:-2], flat.shape[:-2])
        flat = flat.mapped(lambda t: t.expand(*lead, *t.shape[-2:]))
    if ref.tensor.dim() > 2 and all(s == 0 for s in ref.tensor.stride()[:-2]):
        index = (0,) * (ref.tensor.dim() - 2)  # one matrix, broadcast over the batch
        ref = ref._replace(tensor=ref.tensor[index])
    out = b.matmul(flat, ref, bias=bias)
    return out.mapped(lambda t: t.reshape(shape))


def _mix(b: Builder, left: Arg, right: Arg, shape: tuple[int, ...]) -> Signal:
    lead = shape[: max(len(shape) - 2, 0)]
    sides: list[Signal | None] = []
    zeros: list[torch.Tensor | None] = []
    vectors = (len(left.shape) == 1, len(right.shape) == 1)
    for arg, is_vector, column in ((left, vectors[0], False), (right, vectors[1], True)):
        fix = _fixer(is_vector, column, lead)
        sides.append(None if arg.signal is None else arg.signal.mapped(fix))
        zero = None
        if arg.signal is None and not arg.data_dependent:
            zero = arg.zeros()
        zeros.append(None if zero is None else fix(zero))
    rows = 1 if vectors[0] else left.shape[-2]
    cols = 1 if vectors[1] else right.shape[-1]
    out = b.mix(sides[0], sides[1], (zeros[0], zeros[1]), (*lead, rows, cols))
    return out.mapped(lambda t: t.reshape(shape))


def _fixer(is_vector: bool, column: bool, lead: tuple[int, ...]) -> Any:
    def fix(t: torch.Tensor) -> torch.Tensor:
        if is_vector:
            t = t.unsqueeze(-1 if column else 0)
        return t.expand(*lead, *t.shape[-2:])

    return fix


def _transposed(ref: WeightRef) -> WeightRef:
    return ref if ref.tensor.dim() < 2 else ref._replace(tensor=ref.tensor.transpose(-1, -2))


def _turn(x: Signal) -> Signal:
    return x.mapped(lambda t: t.transpose(-1, -2) if t.dim() >= 2 else t.unsqueeze(0))


def _turned(shape: tuple[int, ...], right: Arg) -> tuple[int, ...]:
    if len(right.shape) == 1:
        return (1, math.prod(shape))
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) >= 2 else (shape[0], 1)


def _any(*args: Arg) -> bool:
    return any(a.signal is not None for a in args)


def _shape(node: Node) -> tuple[int, ...]:
    assert node.out[0] is not None
    return node.out[0].shape


@rules.op("convolution", "_convolution")
def convolution(b: Builder, node: Node) -> Signal:
    """A convolution in 1 to 3 dimensions, forward or transposed."""
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args[:9]
    rank = len(weight.shape) - 2
    geometry = {
        "stride": _full(stride, rank), "padding": _full(padding, rank), "dilation": _full(dilation, rank),
        "transposed": transposed, "output_padding": _full(output_padding, rank), "groups": groups,
    }  # fmt: skip
    if weight.signal is not None:
        return _dynamic_convolution(b, node, x, weight, geometry)
    return b.conv(x.signal, weight.weight(), _shape(node), bias=bias is not None, **geometry)


@rules.op("conv_tbc")
def time_batch_channel(b: Builder, node: Node) -> Signal:
    """A convolution of (time, batch, channels) with a kernel (taps, in, out): one of (batch, channels, time)."""
    x, weight, bias, pad = node.arg(0, "self"), node.arg(1, "weight"), node.arg(2, "bias"), node.arg(3, "pad", 0)
    if x.signal is None or weight.signal is not None:
        return NotImplemented
    time, batch, channels = _shape(node)
    ref = weight.weight()
    ref = ref._replace(tensor=ref.tensor.permute(2, 1, 0))
    inner = x.signal.mapped(lambda t: t.permute(1, 2, 0))
    out = b.conv(
        inner, ref, (batch, channels, time), bias=bias is not None, stride=(1,), padding=(pad,), dilation=(1,),
        transposed=False, output_padding=(0,), groups=1,
    )  # fmt: skip
    return out.mapped(lambda t: t.permute(2, 0, 1))


def _dynamic_convolution(b: Builder, node: Node, x: Arg, weight: Arg, geometry: dict[str, Any]) -> Signal:
    """A kernel that is an activation: structural edges from the taps, and from every entry of the kernel."""
    assert weight.signal is not None
    n, c_out, *spatial = shape = _shape(node)
    groups, points = geometry["groups"], math.prod(spatial)
    space = b.space(shape, "mix", additive=True)
    target = Operand.strided(shape, tuple(math.prod(shape[k + 1 :]) for k in range(len(shape))), space.offset)
    kernel = weight.signal
    if geometry["transposed"]:  # (in, out / groups, ...) -> (out, in / groups, ...)
        kernel = kernel.mapped(lambda t: t.reshape(groups, -1, *t.shape[1:]).transpose(1, 2).flatten(0, 1))
    entries = kernel.mapped(lambda t: t.reshape(1, c_out, 1, -1).expand(n, c_out, 1, -1))
    positions = Operand.strided((n, c_out, 1, points), (c_out * points, points, points, 1), space.offset)
    ones = WeightRef(("ones", node.name, weight.shape), torch.ones(()).expand(weight.shape), learned=False)
    image = Operand.strided(x.shape, (0,) * len(x.shape), 0) if x.signal is None else b.operand(x.signal)
    taps = Conv(image, target, ones, **geometry)
    if x.signal is not None:
        b.add(taps)
    reads = torch.ones(1, 1, dtype=torch.bool)  # (entries of the kernel, positions): is the tap inside the image?
    for size, here, table in zip(taps.kernel, spatial, taps.taps, strict=True):
        axis = torch.zeros(size, here, dtype=torch.bool)
        axis[table[0], table[1]] = True
        reads = (reads[:, None, :, None] & axis[None, :, None, :]).reshape(reads.shape[0] * size, -1)
    reads = reads.repeat(entries.shape[-1] // reads.shape[0], 1)
    b.add(Matmul(b.operand(entries), positions, pattern=None if bool(reads.all()) else reads))
    return b.signal(space)


def _full(numbers: list[int], rank: int) -> tuple[int, ...]:
    return tuple(numbers) * rank if len(numbers) == 1 else tuple(numbers)


@rules.op("embedding")
def embedding(b: Builder, node: Node) -> Signal | list[None]:
    """Rows that integers look up: one source unit per position and feature."""
    weight, indices = node.arg(0, "weight"), node.arg(1, "indices")
    if weight.signal is not None:
        return b.reindex(lambda t: t[indices.tensor()], [weight.signal])[0]
    if not indices.from_input or indices.data_dependent:
        return [None]
    return _looked_up(b, node)


@rules.op("index", "_unsafe_index", "index_select", "gather")
def lookup(b: Builder, node: Node) -> Any:
    """A table of numbers read by integers of the input gives source units; else elements move."""
    if node.signals():
        from deepstruct.structure.rules.reindex import move

        return move(b, node)
    return _looked_up(b, node)


def _looked_up(b: Builder, node: Node) -> Signal:
    """One source unit per element of what integers looked up in a table of numbers."""
    assert node.out[0] is not None
    return b.source(_shape(node), b.where[0] or node.name, kind="embedding", value=node.out[0].id)


@rules.op("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(b: Builder, node: Node) -> list[Signal | None]:
    """Rows that integers look up, summed or maximised bag by bag; one source unit per position and feature."""
    weight, indices, offsets = node.args[:3]
    if weight.signal is not None:
        return NotImplemented
    if not indices.from_input or indices.data_dependent:
        return [None]
    mode, padding = node.arg(4, "mode", 0), node.arg(8, "padding_idx", -1)
    rows, features = indices.shape[0], weight.shape[1]
    read = b.source((rows, features), f"{b.where[0] or node.name}", kind="embedding")
    bag = torch.searchsorted(offsets.tensor(), torch.arange(rows), right=True) - 1
    used = indices.tensor() != padding if padding >= 0 else torch.ones(rows, dtype=torch.bool)
    used &= bag < _shape(node)[0]
    feature = torch.arange(features)
    source = (torch.arange(rows)[used, None] * features + feature).reshape(-1)
    target = (bag[used, None] * features + feature).reshape(-1)
    summed = b.sparse(read, _shape(node), source, target, additive=mode != 2, kind="reduce")
    return [summed if node.arg(6, "per_sample_weights") is None else summed.curved()]
