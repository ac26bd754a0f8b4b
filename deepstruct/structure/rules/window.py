"""Pooling, reductions, running sums and interpolation: windows that are a product over the axes."""

from __future__ import annotations

import math

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Node
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()

Axes = list[torch.Tensor | None]


def window_matrix(n_in: int, n_out: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """Boolean (out, in): which inputs a sliding window reads; taps in the padding read nothing."""
    out = torch.arange(n_out)[:, None, None] * stride - padding
    tap = torch.arange(kernel)[None, :, None] * dilation
    return ((out + tap) == torch.arange(n_in)[None, None, :]).any(1)


def adaptive_matrix(n_in: int, n_out: int) -> torch.Tensor:
    """Boolean (out, in) of adaptive pooling: from floor(o n_in / n_out) to ceil((o + 1) n_in / n_out)."""
    o = torch.arange(n_out)[:, None]
    i = torch.arange(n_in)[None, :]
    start = (o * n_in) // n_out
    stop = -(-((o + 1) * n_in) // n_out)
    return (i >= start) & (i < stop)


@rules.op("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d")
def pool(b: Builder, node: Node) -> list[Signal | None]:
    """Max and average pooling: one edge per tap that reads a real unit."""
    (x,) = node.signals()
    average = node.name.startswith("avg")
    rank = int(node.name[node.name.index("pool") + 4])
    kernel = _full(node.arg(1, "kernel_size"), rank)
    stride = _full(node.arg(2, "stride", []) or list(kernel), rank)
    padding = _full(node.arg(3, "padding", 0), rank)
    dilation = (1,) * rank if average else _full(node.arg(4, "dilation", 1), rank)
    out = _shape(node)
    axes: Axes = [None] * (len(x.shape) - rank)
    for a in range(rank):
        n_in, n_out = x.shape[a - rank], out[a - rank]
        axes.append(window_matrix(n_in, n_out, kernel[a], stride[a], padding[a], dilation[a]))
    return [b.window(x, axes, additive=average)]


@rules.op("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive(b: Builder, node: Node) -> list[Signal | None]:
    """Adaptive pooling: one edge per element of the window."""
    (x,) = node.signals()
    out, average = _shape(node), "avg" in node.name
    rank = int(node.name[node.name.index("pool") + 4])
    lead = len(out) - rank
    axes: Axes = [None] * lead
    axes += [adaptive_matrix(n, m) for n, m in zip(x.shape[lead:], out[lead:], strict=True)]
    return [b.window(x, axes, additive=average)]


def fractional_starts(n_in: int, n_out: int, kernel: int, chance: torch.Tensor) -> torch.Tensor:
    """Where the windows of fractional pooling begin, (..., out), for numbers in [0, 1) of shape (...)."""
    if n_out == 1:
        return torch.full((*chance.shape, 1), n_in - kernel, dtype=torch.int64)
    step = (n_in - kernel) / (n_out - 1)
    start = torch.floor((torch.arange(n_out) + chance.unsqueeze(-1)) * step) - torch.floor(chance * step).unsqueeze(-1)
    start[..., -1] = n_in - kernel
    return start.to(torch.int64)


@rules.op("fractional_max_pool2d", "fractional_max_pool3d")
def fractional(b: Builder, node: Node) -> list[Signal | None]:
    """Pooling with windows at places drawn by chance: at the stored places, or at any that may be drawn."""
    (x,) = node.signals()[:1]
    rank = int(node.name[-2])
    kernel, samples, out = _full(node.arg(1, "kernel_size"), rank), node.args[3], _shape(node)
    sizes = list(zip(x.shape[-rank:], out[-rank:], kernel, strict=True))
    if not samples.known() or samples.data_dependent:
        b.note("fractional pooling draws its windows at random: a unit reads what any draw would let it read")
        axes: Axes = [None] * (len(x.shape) - rank)
        for n, m, k in sizes:
            chances = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
            start = fractional_starts(n, m, k, chances)  # floors differ by one at most: a fine grid meets them all
            hit = torch.zeros(m, n, dtype=torch.bool)
            hit[torch.arange(m)[None, :, None], (start.clamp(max=n - k)[..., None] + torch.arange(k))] = True
            axes.append(hit)
        return [b.window(x, axes), None]
    chance = samples.tensor().to(torch.float64)
    batch = chance.shape[0] * chance.shape[1]
    place = torch.arange(batch).view(batch, *(1,) * (2 * rank))  # (batch, *out, *kernel)
    for axis, (n, m, k) in enumerate(sizes):
        column = rank - 1 - axis if rank == 2 else axis  # the last number is that of the rows, in two dimensions
        start = fractional_starts(n, m, k, chance[..., column].reshape(batch))
        line = start[..., None] + torch.arange(k)  # (batch, out, kernel)
        shape = [batch] + [m if a == axis else 1 for a in range(rank)] + [k if a == axis else 1 for a in range(rank)]
        place = place * n + line.view(shape)
    targets = torch.arange(batch * math.prod(out[-rank:])).view(batch, *out[-rank:], *(1,) * rank).expand(place.shape)
    return [b.sparse(x, out, place.reshape(-1), targets.reshape(-1), kind="window"), None]


@rules.op("mean", "sum", "amax", "amin", "max", "min", "prod", "logsumexp", "var", "std", "var_mean", "std_mean",
          "linalg_vector_norm", "norm", "nansum", "median", "nanmedian", "mode", "aminmax",
          "kthvalue")  # fmt: skip
def reduction(b: Builder, node: Node) -> list[Signal | None]:
    """Reductions: one unit that reads everything along the reduced axes."""
    (x,) = node.signals()[:1]
    if node.name in ("max", "min") and len(node.signals()) == 2:
        return [b.merge(node.signals())]
    position = {"linalg_vector_norm": 2, "norm": 2}.get(node.name, 1)
    if node.name == "kthvalue":
        position = 2
    dims = node.arg(position, "dim")
    rank = len(x.shape)
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        dims = list(range(rank))
    dims = [dims] if isinstance(dims, int) else list(dims)
    out = b.reduce(x, dims, additive=node.name in ("mean", "sum", "nansum"))
    results: list[Signal | None] = []
    for value in node.out:
        if value is None or not value.dtype.is_floating_point:
            results.append(None)
        else:
            shape = value.shape
            results.append(out.mapped(lambda t, shape=shape: t.reshape(shape)))  # type: ignore[misc]
    return results


@rules.op("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")
def scan(b: Builder, node: Node) -> list[Signal | None]:
    """A running reduction: element k reads the elements up to k."""
    (x,) = node.signals()
    if not x.shape:
        return [x]
    dim = node.arg(1, "dim") % len(x.shape)
    n = x.shape[dim]
    axes: Axes = [None] * len(x.shape)
    axes[dim] = torch.ones(n, n, dtype=torch.bool).tril()
    return [b.window(x, axes, kind="scan", additive=node.name == "cumsum")]


@rules.op("sort", "topk")
def ordering(b: Builder, node: Node) -> list[Signal | None]:
    """Sorted values: which element lands where hangs on the data, so each may come from any."""
    (x,) = node.signals()
    if not x.shape:
        return [x, None]
    default = -1
    dim = node.arg(2 if node.name == "topk" else 1, "dim", default)
    if not isinstance(dim, int) or isinstance(dim, bool):
        dim = -1
    dim %= len(x.shape)
    return [b.reduce(x, [dim], additive=False, size=_shape(node)[dim], kind="order")]


@rules.op("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
          "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip
def interpolate(b: Builder, node: Node) -> list[Signal | None]:
    """Interpolation: per axis the inputs whose coefficient is not zero, found by running it on impulses."""
    op = node.op
    assert op is not None
    (x,) = node.signals()
    out = _shape(node)
    rank = len(out) - 2
    axes: Axes = [None, None]
    for axis in range(rank):
        axes.append(_axis_response(node, x.shape[2:], out[2:], axis))
    return [b.window(x, axes, additive=True)]


def _axis_response(
    node: Node, n_in: tuple[int, ...], n_out: tuple[int, ...], axis: int
) -> torch.Tensor | None:
    """Boolean (out, in) along one axis: the response to an impulse that is constant along the others."""
    assert node.op is not None
    n = n_in[axis]
    shape = [n, 1, *n_in]
    eye = torch.eye(n, dtype=torch.float64).view(n, 1, *(n if a == axis else 1 for a in range(len(n_in))))
    response = node.op.target(eye.expand(shape).contiguous(), *node.args[1:], **node.kwargs)
    line = response.movedim(2 + axis, 1).reshape(n, n_out[axis], -1)[..., 0]
    return (line.abs() > 1e-12).T.contiguous()


def _full(numbers: int | list[int], rank: int) -> tuple[int, ...]:
    if isinstance(numbers, int):
        return (numbers,) * rank
    return tuple(numbers) * rank if len(numbers) == 1 else tuple(numbers)


def _shape(node: Node) -> tuple[int, ...]:
    assert node.out[0] is not None
    return node.out[0].shape
