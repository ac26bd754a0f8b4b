"""A recurrent layer over a sequence: PyTorch's fused kernels, and the same as an operator that compilers accept.

Shapes: x (steps, batch, input), states (batch, hidden), weights (gates * hidden, input) and (gates * hidden,
hidden), biases (gates * hidden,). Cells are "rnn_tanh", "rnn_relu", "gru" and "lstm", with gates in PyTorch's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

_VF: Any = torch._VF


def fused(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of all steps, the last one, and the last cell state (of an LSTM; else `c`, which is empty)."""
    state = [h[None], c[None]] if cell == "lstm" else h[None]
    done = getattr(_VF, cell)(x, state, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, False)
    return done[0], done[1][0], done[2][0] if cell == "lstm" else c


def packed_lstm(data: Tensor, batch_sizes: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """The last cell state (1, batch, hidden) of each packed sequence, in the packed order."""
    cells: Tensor = _VF.lstm(data, batch_sizes, list(state), list(weights), True, 1, 0.0, False, False)[2]
    return cells


@torch.library.custom_op("deepstruct::recurrent", mutates_args=())
def _recurrent(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    out, last, cells = fused(cell, x, h, c, w_ih, w_hh, b_ih, b_hh)
    return out.contiguous(), last.clone(), cells.clone()  # an operator's results share nothing


@_recurrent.register_fake
def _(cell: str, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[1], h.shape[1]), h.new_empty(h.shape), c.new_empty(c.shape)


@torch.library.custom_op("deepstruct::recurrent_backward", mutates_args=())
def _recurrent_backward(
    cell: str, grad_out: Tensor, grad_h: Tensor, grad_c: Tensor, out: Tensor, x: Tensor, h: Tensor, c: Tensor,
    w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Back through time by hand: the fused kernels keep what they would need to themselves.

    Gates are computed again, for all steps in one product, from the hidden states; so are the weights' gradients.
    """
    before = torch.cat([h[None], out[:-1]])
    from_x, from_h = linear(x, w_ih, b_ih), linear(before, w_hh, b_hh)
    grad_x_gates, grad_h_gates, grad_h, grad_c = _BACKWARD[cell](
        out, before, from_x, from_h, c, grad_out, grad_h, grad_c, w_hh
    )
    return [
        grad_x_gates @ w_ih, grad_h.clone(), grad_c.clone(),
        grad_x_gates.flatten(0, 1).T @ x.flatten(0, 1), grad_h_gates.flatten(0, 1).T @ before.flatten(0, 1),
        grad_x_gates.sum((0, 1)), grad_h_gates.sum((0, 1)),
    ]  # fmt: skip


@_recurrent_backward.register_fake
def _(cell: str, a: Tensor, b: Tensor, c: Tensor, out: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in inputs]


Gates = tuple[Tensor, Tensor, Tensor, Tensor]  # gradients of both projections' gates and of the first states


def _rnn(derivative: Callable[[Tensor], Tensor]) -> Callable[..., Gates]:
    def backward(
        out: Tensor, before: Tensor, from_x: Tensor, from_h: Tensor, c: Tensor, grad_out: Tensor, grad: Tensor,
        grad_c: Tensor, w_hh: Tensor,
    ) -> Gates:  # fmt: skip
        slope, gates = derivative(out), torch.empty_like(from_x)
        for t in range(len(out) - 1, -1, -1):
            gates[t] = (grad + grad_out[t]) * slope[t]
            grad = gates[t] @ w_hh
        return gates, gates, grad, grad_c

    return backward


def _gru(
    out: Tensor, before: Tensor, from_x: Tensor, from_h: Tensor, c: Tensor, grad_out: Tensor, grad: Tensor,
    grad_c: Tensor, w_hh: Tensor,
) -> Gates:  # fmt: skip
    width = out.shape[2]
    reset, update = torch.sigmoid(from_x[..., : 2 * width] + from_h[..., : 2 * width]).chunk(2, -1)
    candidate = from_h[..., 2 * width :]
    new = torch.tanh(from_x[..., 2 * width :] + reset * candidate)
    slope_new = (1 - update) * (1 - new * new)
    slope_update = (before - new) * update * (1 - update)
    slope_reset = candidate * reset * (1 - reset)
    x_gates, h_gates = torch.empty_like(from_x), torch.empty_like(from_h)
    for t in range(len(out) - 1, -1, -1):
        grad = grad + grad_out[t]
        inner = grad * slope_new[t]
        x_gates[t] = torch.cat([inner * slope_reset[t], grad * slope_update[t], inner], -1)
        h_gates[t] = torch.cat([x_gates[t, :, : 2 * width], inner * reset[t]], -1)
        grad = grad * update[t] + h_gates[t] @ w_hh
    return x_gates, h_gates, grad, grad_c


def _lstm(
    out: Tensor, before: Tensor, from_x: Tensor, from_h: Tensor, c: Tensor, grad_out: Tensor, grad: Tensor,
    grad_c: Tensor, w_hh: Tensor,
) -> Gates:  # fmt: skip
    i, f, g, o = (from_x + from_h).chunk(4, -1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    cells = [c]
    for fresh, kept in zip(i * g, f, strict=True):
        cells.append(kept * cells[-1] + fresh)
    curved = torch.tanh(torch.stack(cells[1:]))
    slopes = torch.stack([g * i * (1 - i), torch.stack(cells[:-1]) * f * (1 - f), i * (1 - g * g)], 2)
    slope_out, slope_cell = curved * o * (1 - o), o * (1 - curved * curved)
    gates = torch.empty_like(from_x)
    for t in range(len(out) - 1, -1, -1):
        grad = grad + grad_out[t]
        grad_c = grad_c + grad * slope_cell[t]
        gates[t] = torch.cat([(grad_c[:, None] * slopes[t]).flatten(1), grad * slope_out[t]], -1)
        grad, grad_c = gates[t] @ w_hh, grad_c * f[t]
    return gates, gates, grad, grad_c


_BACKWARD: dict[str, Callable[..., Gates]] = {
    "rnn_tanh": _rnn(lambda out: 1 - out * out),
    "rnn_relu": _rnn(lambda out: (out > 0).to(out.dtype)),
    "gru": _gru,
    "lstm": _lstm,
}


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell = inputs[0]
    ctx.save_for_backward(output[0], *inputs[1:])


def _backward(ctx: Any, grad_out: Tensor, grad_h: Tensor, grad_c: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.deepstruct.recurrent_backward(ctx.cell, grad_out, grad_h, grad_c, *ctx.saved_tensors)
    return (None, *grads)


torch.library.register_autograd("deepstruct::recurrent", _backward, setup_context=_keep)
