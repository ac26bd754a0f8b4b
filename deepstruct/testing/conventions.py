"""Normalizations and softmax as the graph sees them: their statistics are constants of the derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Results = Sequence[torch.Tensor | None]
Variant = Callable[..., Results]


def _normalized(x: torch.Tensor, dims: Sequence[int], eps: float, centred: bool = True) -> torch.Tensor:
    """x over its statistics along `dims`, which do not take part in the derivative."""
    with torch.no_grad():
        mean = x.mean(tuple(dims), keepdim=True) if centred else torch.zeros((), dtype=x.dtype, device=x.device)
        scale = ((x - mean).square().mean(tuple(dims), keepdim=True) + eps).rsqrt()
    return (x - mean) * scale


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def layer_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None = None, bias: torch.Tensor | None = None,
    eps: float = 1e-5, *rest: Any,
) -> Results:  # fmt: skip
    return [_affine(_normalized(x, range(-len(shape), 0), eps), weight, bias), None, None]


def rms_norm(
    x: torch.Tensor, shape: Sequence[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> Results:
    small = torch.finfo(x.dtype).eps if eps is None else eps
    return [_affine(_normalized(x, range(-len(shape), 0), small, centred=False), weight, None), None]


def group_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, n: int, c: int, hxw: int, group: int,
    eps: float,
) -> Results:  # fmt: skip
    view = (1, c, *(1,) * (x.dim() - 2))
    normed = _normalized(x.reshape(n, group, -1), [2], eps).reshape(x.shape)
    weight = None if weight is None else weight.reshape(view)
    return [_affine(normed, weight, None if bias is None else bias.reshape(view)), None, None]


def instance_norm(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None, *rest: Any, **named: Any
) -> Results:
    """Batch norm by the statistics of its input, which is what an instance norm becomes."""
    eps = named.get("eps", rest[-1] if rest else 1e-5)
    view = (1, -1, *(1,) * (x.dim() - 2))
    weight = None if weight is None else weight.reshape(view)
    normed = _normalized(x, [0, *range(2, x.dim())], float(eps))
    return [_affine(normed, weight, None if bias is None else bias.reshape(view)), None, None]


def renorm(x: torch.Tensor, p: float, dim: int, most: float) -> Results:
    with torch.no_grad():
        norms = torch.linalg.vector_norm(x, p, dim=[k for k in range(x.dim()) if k != dim % x.dim()], keepdim=True)
        scale = (most / norms).clamp(max=1)
    return [x * scale]


def softmax(x: torch.Tensor, dim: int, *rest: Any) -> Results:
    top = x.detach().amax(dim, keepdim=True)
    top = torch.where(top.isinf(), torch.zeros_like(top), top)  # a row that is masked as a whole
    powers = (x - top).exp()
    total = powers.detach().sum(dim, keepdim=True)
    return [powers / torch.where(total == 0, torch.ones_like(total), total)]


def log_softmax(x: torch.Tensor, dim: int, *rest: Any) -> Results:
    return [x - x.detach().logsumexp(dim, keepdim=True)]


NORMS: dict[str, Variant] = {
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_fused_rms_norm": rms_norm,
    "renorm": renorm,
}
"""One to one by default: with normalization="stats" they are what they are."""

BATCH_NORMS = frozenset({"native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"})
"""In training mode they are instance norms (the graph refuses any other)."""

SOFTMAX: dict[str, Variant] = {
    "_softmax": softmax,
    "_safe_softmax": softmax,
    "_log_softmax": log_softmax,
}


def lstm_layer(
    x: torch.Tensor, w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: torch.Tensor, b_hh: torch.Tensor,
    h: torch.Tensor, c: torch.Tensor, reverse: bool, *rest: Any,
) -> Results:  # fmt: skip
    """One LSTM layer in one direction, step by step: the fused kernel knows no double precision."""
    biased = bool(rest[4])  # without, the two biases hold other tensors
    shape = h.shape  # (batch, features); a leading 1 in some releases
    h, c = h.reshape(x.shape[1], -1), c.reshape(x.shape[1], -1)
    outputs = []
    for step in x.flip(0) if reverse else x:
        gates = step @ w_ih.T + h @ w_hh.T
        i, f, g, o = (gates + b_ih + b_hh if biased else gates).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    out = torch.stack(outputs[::-1] if reverse else outputs)
    return [out, h.reshape(shape), c.reshape(shape), None]


def grouped_mm(x: torch.Tensor, matrices: torch.Tensor, ends: torch.Tensor, *rest: Any, **named: Any) -> Results:
    """Rows of x, sorted by group, times the matrix of each group."""
    starts = [0, *ends.tolist()]
    parts = [x[a:z] @ m for a, z, m in zip(starts, starts[1:], matrices, strict=False)]
    return [torch.cat([*parts, x.new_zeros(len(x) - starts[-1], matrices.shape[-1])])]


SAME: dict[str, Variant] = {"mkldnn_rnn_layer": lstm_layer, "_grouped_mm": grouped_mm}
"""The same operation in a form that can be differentiated in double precision."""
