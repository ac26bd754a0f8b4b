"""What recurrent cells do between their matrix products, one step forward and one step back.

All tensors are feature-major, (features, batch): gates are blocks of rows then, and products run faster with the
batch as the short side. `gates` holds the projections of the input with its bias; the hidden state's are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepstruct.sparse import recurrent_reference

_tanh_back = torch.ops.aten.tanh_backward.grad_input


@dataclass(frozen=True)
class Cell:
    """One kind of cell.

    forward(gates, extra, h, c, new_h, new_c) writes the next state and leaves activations in `gates`.
    backward(gates, extra, h, c, new_h, new_c, grad_h, grad_c, grad_gates, grad_hidden) takes the gradients
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
    grad_gates: Tensor, grad_hidden: Tensor,
) -> None:  # fmt: skip
    _tanh_back(grad_h, new_h, grad_input=grad_gates)
    grad_h.zero_()


def _relu_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    torch.clamp_min(gates, 0, out=new_h)


def _relu_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor,
) -> None:  # fmt: skip
    torch.ops.aten.threshold_backward.grad_input(grad_h, new_h, 0, grad_input=grad_gates)
    grad_h.zero_()


def _step(name: str, gates: Tensor, *others: Tensor) -> None:
    """By the operator, behind which are kernels for float32 and float64; other precisions take the plain form."""
    place = torch.ops.deepstruct if gates.dtype in (torch.float32, torch.float64) else recurrent_reference
    getattr(place, name)(gates, *others)


def _gru_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    _step("gru_forward_", gates, extra, h, new_h)


def _gru_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor,
) -> None:  # fmt: skip
    _step("gru_backward_", gates, extra, h, grad_h, grad_gates, grad_hidden)


def _lstm_forward(gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor) -> None:
    _step("lstm_forward_", gates, c, new_h, new_c)


def _lstm_backward(
    gates: Tensor, extra: Tensor, h: Tensor, c: Tensor, new_h: Tensor, new_c: Tensor, grad_h: Tensor, grad_c: Tensor,
    grad_gates: Tensor, grad_hidden: Tensor,
) -> None:  # fmt: skip
    _step("lstm_backward_", gates, c, new_c, grad_h, grad_c, grad_gates)


CELLS = {
    "rnn_tanh": Cell(1, False, False, _tanh_forward, _tanh_backward),
    "rnn_relu": Cell(1, False, False, _relu_forward, _relu_backward),
    "gru": Cell(3, True, False, _gru_forward, _gru_backward),
    "lstm": Cell(4, False, True, _lstm_forward, _lstm_backward),
}
