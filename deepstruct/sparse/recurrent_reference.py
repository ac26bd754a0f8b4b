"""Steps of gated recurrent cells in plain PyTorch: what the kernels are checked against, and what runs without them.

Feature-major: states (hidden, batch), gates in blocks of rows, in PyTorch's order.
"""

from __future__ import annotations

import torch
from torch import Tensor

_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input


def lstm_forward_(gates: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    """Gates (4 * hidden, batch) become activations; the next state and cell are written."""
    n = len(c)
    gates[: 2 * n].sigmoid_()
    gates[2 * n : 3 * n].tanh_()
    gates[3 * n :].sigmoid_()
    i, f, g, o = gates.chunk(4)
    torch.mul(f, c, out=new_c)
    new_c.addcmul_(i, g)
    torch.tanh(new_c, out=new_h)
    new_h.mul_(o)


def lstm_backward_(
    gates: Tensor, c: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor, grad_gates: Tensor
) -> None:
    """Gradients of the gates from those of the next state and cell; grad_c becomes that of c, and grad_h zero."""
    i, f, g, o = gates.chunk(4)
    to_i, to_f, to_g, to_o = grad_gates.chunk(4)
    curved = torch.tanh(new_c)
    scratch = grad_h * curved
    _sigmoid_back(scratch, o, grad_input=to_o)
    grad_h.mul_(o)
    _tanh_back(grad_h, curved, grad_input=scratch)
    grad_c.add_(scratch)
    torch.mul(grad_c, g, out=scratch)
    _sigmoid_back(scratch, i, grad_input=to_i)
    torch.mul(grad_c, c, out=scratch)
    _sigmoid_back(scratch, f, grad_input=to_f)
    torch.mul(grad_c, i, out=scratch)
    _tanh_back(scratch, g, grad_input=to_g)
    grad_c.mul_(f)
    grad_h.zero_()


def gru_forward_(gates: Tensor, extra: Tensor, h: Tensor, new_h: Tensor) -> None:
    """Gates (3 * hidden, batch), the input's share, become activations; the next state is written."""
    n = len(h)
    switches, new = gates[: 2 * n], gates[2 * n :]
    switches.add_(extra[: 2 * n]).sigmoid_()
    new.addcmul_(switches[:n], extra[2 * n :]).tanh_()
    torch.lerp(new, h, switches[n:], out=new_h)


def gru_backward_(
    gates: Tensor, extra: Tensor, h: Tensor, grad_h: Tensor, grad_gates: Tensor, grad_extra: Tensor
) -> None:
    """Gradients of both shares from that of the next state; grad_h becomes what reaches h past the gates."""
    n = len(h)
    reset, update, new = gates.chunk(3)
    to_reset, to_update, to_new = grad_gates.chunk(3)
    scratch = torch.sub(h, new)
    scratch.mul_(grad_h)
    _sigmoid_back(scratch, update, grad_input=to_update)
    torch.mul(grad_h, update, out=scratch)
    grad_h.sub_(scratch)
    _tanh_back(grad_h, new, grad_input=to_new)
    grad_h.copy_(scratch)
    torch.mul(to_new, extra[2 * n :], out=scratch)
    _sigmoid_back(scratch, reset, grad_input=to_reset)
    grad_extra[: 2 * n].copy_(grad_gates[: 2 * n])
    torch.mul(to_new, reset, out=grad_extra[2 * n :])
