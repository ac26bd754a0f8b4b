"""Smooth stand-ins for operations whose derivative vanishes on part of their domain.

ReLU and max pooling hide edges at any one point: a derivative with all of them needs many draws. A
stand-in depends on the same elements everywhere, so that one draw suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

Results = Sequence[torch.Tensor | None]


@dataclass(frozen=True)
class Here:
    """What a stand-in may know of the operation that it replaces."""

    name: str
    shapes: Sequence[tuple[int, ...]]  # of the tensors that it returns
    generator: torch.Generator
    fixed: Sequence[torch.Tensor | None]  # recorded integer and boolean results

    def weights(self, *shape: int) -> torch.Tensor:
        """Generic positive numbers."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) + 0.5


Surrogate = Callable[..., Results]
SURROGATES: dict[str, Surrogate] = {}


def _for(*names: str) -> Callable[[Surrogate], Surrogate]:
    def register(function: Surrogate) -> Surrogate:
        SURROGATES.update(dict.fromkeys(names, function))
        return function

    return register


@_for("relu", "relu6", "hardswish", "threshold", "leaky_relu", "_prelu_kernel", "prelu", "rrelu", "rrelu_with_noise",
      "elu", "celu", "selu")  # fmt: skip
def rectifier(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    slope = rest[0] if rest and isinstance(rest[0], torch.Tensor) and here.name in ("_prelu_kernel", "prelu") else None
    y = F.silu(x)
    return [y if slope is None else y + 0 * slope]


@_for("hardsigmoid")
def sigmoid(here: Here, x: torch.Tensor) -> Results:
    return [x.sigmoid()]


@_for("abs", "softshrink", "hardshrink", "square_relu")
def even(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    if x.is_complex():  # the modulus is smooth but at zero
        return [x.abs()]
    return [x * x.tanh() if here.name == "abs" else 0.5 * x + 0.2 * x.square()]


@_for("sign", "sgn", "floor", "ceil", "round", "trunc", "hardtanh", "nan_to_num", "heaviside", "frac",
      "floor_divide")  # fmt: skip
def kept(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    return [0.7 * x]


@_for("clamp", "clamp_min", "clamp_max", "clip", "maximum", "minimum", "fmax", "fmin")
def bounded(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    """Goes through the same value at zero; bounds that are tensors take part."""
    bounds = [*rest, *named.values()]
    if not any(isinstance(bound, torch.Tensor) for bound in bounds):
        low = named.get("min", rest[0] if rest and here.name != "clamp_max" else None)
        high = named.get("max", rest[-1] if rest and (len(rest) > 1 or here.name == "clamp_max") else None)
        return [0.9 * x + torch.zeros((), dtype=x.dtype).clamp(low, high) if bounds else 0.9 * x]
    y = 0.9 * x
    for k, bound in enumerate(bounds):
        if isinstance(bound, torch.Tensor):
            y = y + (0.3 + 0.1 * k) * torch.where(bound.isinf(), torch.zeros_like(bound), bound)
    return [y]


@_for("where")
def chosen(here: Here, condition: torch.Tensor, yes: Any, no: Any) -> Results:
    return [0.6 * _finite(yes) + 0.4 * _finite(no) + torch.zeros(condition.shape, dtype=torch.float64)]


@_for("masked_fill")
def filled(here: Here, x: torch.Tensor, mask: torch.Tensor, value: Any) -> Results:
    y = 0.8 * x + torch.zeros(mask.shape, dtype=x.dtype)
    return [y + 0.2 * value if isinstance(value, torch.Tensor) and value.requires_grad else y]


def _finite(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.where(value.isinf(), torch.zeros_like(value), value)
    return 0.0 if value in (float("inf"), float("-inf")) else value


@_for("bernoulli", "randint_like", "rand_like", "randn_like", "rand", "randn", "uniform", "normal", "exponential")
def drawn(here: Here, *rest: Any, **named: Any) -> Results:
    return [here.weights(*here.shapes[0])]


@_for("native_dropout")
def undropped(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    return [x, here.fixed[1]]


# -- maxima: softened, so that every element takes part


def _soft_max(x: torch.Tensor, dims: Any, keepdim: bool) -> torch.Tensor:
    dims = tuple(range(x.dim())) if dims is None or dims == [] else (dims if isinstance(dims, int) else tuple(dims))
    return x.logsumexp(dims, keepdim=keepdim)


@_for("max", "min", "amax", "amin", "median", "nanmedian", "mode", "kthvalue", "aminmax")
def extremum(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    if rest and isinstance(rest[0], torch.Tensor):  # the element-wise form
        return bounded(here, x, *rest)
    if here.name == "kthvalue":
        rest = rest[1:]
    dims = rest[0] if rest else named.get("dim")
    keepdim = bool(rest[1] if len(rest) > 1 else named.get("keepdim", False))
    low = here.name in ("min", "amin")
    y = -_soft_max(-x, dims, keepdim) if low else _soft_max(x, dims, keepdim)
    y = y.reshape(here.shapes[0])
    if here.name == "aminmax":
        return [-_soft_max(-x, dims, keepdim).reshape(here.shapes[0]), y]
    return [y, *here.fixed[1:]]


@_for("cummax", "cummin")
def running(here: Here, x: torch.Tensor, dim: int) -> Results:
    y = x.logcumsumexp(dim) if here.name == "cummax" else -(-x).logcumsumexp(dim)
    return [y, *here.fixed[1:]]


@_for("sort", "topk", "msort")
def ordered(here: Here, x: torch.Tensor, *rest: Any, **named: Any) -> Results:
    shape = here.shapes[0]
    at = 1 if here.name == "topk" else 0
    dim = rest[at] if len(rest) > at and not isinstance(rest[at], bool) else named.get("dim", -1)
    dim = 0 if here.name == "msort" else dim
    if not shape:
        return [x, *here.fixed[1:]]
    mixing = here.weights(x.shape[dim], shape[dim])
    return [(x.movedim(dim, -1) @ mixing).movedim(-1, dim) / x.shape[dim], *here.fixed[1:]]


@_for("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
      "max_pool1d_with_indices", "mkldnn_max_pool2d")  # fmt: skip
def max_pool(
    here: Here, x: torch.Tensor, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False,
) -> Results:  # fmt: skip
    """The logarithm of windowed sums of exponentials."""
    shape = here.shapes[0]
    rank = int(here.name.split("pool")[1][0])
    kernel, padding, dilation = (_full(n, rank) for n in (kernel, padding, dilation))
    stride = _full(stride, rank) if stride else kernel
    single = x.dim() == rank + 1
    flat = (x.unsqueeze(0) if single else x).exp()
    c = flat.shape[1]
    margins: list[int] = []
    for a in reversed(range(rank)):  # with ceil_mode the last window may hang over
        reach = (shape[a - rank] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1
        margins += [padding[a], max(0, reach - x.shape[a - rank] - padding[a])]
    ones = torch.ones(c, 1, *kernel, dtype=x.dtype)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    y = conv(F.pad(flat, margins), ones, None, stride, 0, dilation, c)
    for axis in range(-rank, 0):
        y = y.narrow(axis, 0, shape[axis])
    y = y.log()
    return [y.reshape(shape), *here.fixed[1:]]


@_for("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(here: Here, x: torch.Tensor, size: Any) -> Results:
    rank = int(here.name.split("pool")[1][0])
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]
    return [pool(x.exp(), size).log(), *here.fixed[1:]]


def _full(numbers: Any, rank: int) -> list[int]:
    if isinstance(numbers, int):
        return [numbers] * rank
    return list(numbers) * rank if len(numbers) == 1 else list(numbers)
