"""What recurrent cells do between their matrix products, one step forward and one step back.

All tensors are feature-major, (features, batch): gates are blocks of rows then, and products run faster with the
batch as the short side. `gates` holds the projections of the input with its bias; the hidden state's are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input


@dataclass(frozen=True)
class Cell:
    """One kind of cell.

    forward(gates, extra, h, c, new_h, new_c) writes the next state and leaves activations in `gates`.
    backward(gates, extra, h, c, new_h, new_c, grad_h, grad_c, grad_gates, grad_hidden, scratch) takes the gradients
    of the next state and writes those of both projections; what reaches the state before not by way of the
    hidden-to-hidden product is left in `grad_h` and `grad_c`.

    `split`: the hidden state's projection is kept apart (in `extra`), since it is no plain summand of the gates.
    """

    gates: int
    split: bool
    has_cell: bool
    forward: Callable[..., None]
    backward: Callable[..., None]


def _tanh_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    torch.tanh(gates, out=new_h)


def _tanh_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor, scratch: Tensor,
) -> None:  # fmt: skip
    _tanh_back(grad_h, new_h, grad_input=grad_gates)
    grad_h.zero_()


def _relu_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    torch.clamp_min(gates, 0, out=new_h)


def _relu_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor, scratch: Tensor,
) -> None:  # fmt: skip
    torch.ops.aten.threshold_backward.grad_input(grad_h, new_h, 0, grad_input=grad_gates)
    grad_h.zero_()


def _gru_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    n = len(h)
    switches, new = gates[: 2 * n], gates[2 * n :]
    switches.add_(extra[: 2 * n]).sigmoid_()
    new.addcmul_(switches[:n], extra[2 * n :]).tanh_()
    torch.lerp(new, h, switches[n:], out=new_h)


def _gru_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor, scratch: Tensor,
) -> None:  # fmt: skip
    n = len(h)
    reset, update, new = gates.chunk(3)
    to_reset, to_update, to_new = grad_gates.chunk(3)
    torch.sub(h, new, out=scratch)
    scratch.mul_(grad_h)
    _sigmoid_back(scratch, update, grad_input=to_update)
    torch.mul(grad_h, update, out=scratch)  # what passes straight to the state before
    grad_h.sub_(scratch)
    _tanh_back(grad_h, new, grad_input=to_new)
    grad_h.copy_(scratch)
    torch.mul(to_new, extra[2 * n :], out=scratch)
    _sigmoid_back(scratch, reset, grad_input=to_reset)
    grad_hidden[: 2 * n].copy_(grad_gates[: 2 * n])
    torch.mul(to_new, reset, out=grad_hidden[2 * n :])


def _lstm_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    n = len(h)
    gates[: 2 * n].sigmoid_()
    gates[2 * n : 3 * n].tanh_()
    gates[3 * n :].sigmoid_()
    i, f, g, o = gates.chunk(4)
    torch.mul(f, c, out=new_c)
    new_c.addcmul_(i, g)
    torch.tanh(new_c, out=new_h)
    new_h.mul_(o)


def _lstm_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor, scratch: Tensor,
) -> None:  # fmt: skip
    i, f, g, o = gates.chunk(4)
    to_i, to_f, to_g, to_o = grad_gates.chunk(4)
    curved = torch.tanh(new_c, out=scratch)
    torch.mul(grad_h, curved, out=to_i)
    _sigmoid_back(to_i, o, grad_input=to_o)
    grad_h.mul_(o)
    _tanh_back(grad_h, curved, grad_input=to_i)
    grad_c.add_(to_i)
    torch.mul(grad_c, g, out=scratch)
    _sigmoid_back(scratch, i, grad_input=to_i)
    torch.mul(grad_c, c, out=scratch)
    _sigmoid_back(scratch, f, grad_input=to_f)
    torch.mul(grad_c, i, out=scratch)
    _tanh_back(scratch, g, grad_input=to_g)
    grad_c.mul_(f)
    grad_h.zero_()


CELLS = {
    "rnn_tanh": Cell(1, False, False, _tanh_forward, _tanh_backward),
    "rnn_relu": Cell(1, False, False, _relu_forward, _relu_backward),
    "gru": Cell(3, True, False, _gru_forward, _gru_backward),
    "lstm": Cell(4, False, True, _lstm_forward, _lstm_backward),
}
