"""A recurrent layer over a sequence, as something to differentiate and as an operator that compilers accept.

Training on CPUs runs in passes of our own (`recurrent_passes`), half as long as PyTorch's; all else in PyTorch's
fused kernels.

Shapes: x (steps, batch, input), states (batch, hidden), weights (gates * hidden, input) and (gates * hidden,
hidden), biases (gates * hidden,). Cells are "rnn_tanh", "rnn_relu", "gru" and "lstm", with gates in PyTorch's order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from deepstruct.sparse import ops  # noqa: F401  (defines torch.ops.deepstruct)
from deepstruct.sparse.recurrent_cells import CELLS
from deepstruct.sparse.recurrent_passes import TILE, UNIT, DenseProduct, Kept, Product, SparseProduct, backward, forward
from deepstruct.sparse.structure import Structure

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


def ours(*operands: Tensor) -> bool:
    """Whether the passes of our own run on x, h, c and so on: on the CPU, in plain single or double precision."""
    first = operands[0]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and all(t.dtype == first.dtype and t.device == first.device for t in operands)
        and all(t.numel() for t in operands[:2])
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
    )


def unrolled(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `fused`, step by step in plain operations: differentiable as often as you like."""
    outputs, n = [], h.shape[1]
    for step in linear(x, w_ih, b_ih):
        hidden = linear(h, w_hh, b_hh)
        if cell == "gru":
            reset, update = torch.sigmoid(step[:, : 2 * n] + hidden[:, : 2 * n]).chunk(2, 1)
            new = torch.tanh(step[:, 2 * n :] + reset * hidden[:, 2 * n :])
            h = new + update * (h - new)
        elif cell == "lstm":
            i, f, g, o = (step + hidden).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            h = torch.tanh(step + hidden) if cell == "rnn_tanh" else torch.relu(step + hidden)
        outputs.append(h)
    return torch.stack(outputs), h, c


class SequenceFunction(torch.autograd.Function):
    """A sequence in passes of our own: hidden states of all steps, the last one, and the last cell state.

    With a structure, only its support counts of w_hh, and its gradient is zero elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any, cell: str, structure: Structure | None, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor,
        b_ih: Tensor, b_hh: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.structure = cell, structure
        kept = forward(cell, x, h, c, w_ih, _product(w_hh, structure, len(h)), b_ih, b_hh)
        ctx.save_for_backward(x, h, c, w_ih, w_hh, b_ih, b_hh, *kept)
        return _results(kept, c)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        *operands, states, cells, gates, extra = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *_twice(ctx, operands, grads)
        x, h, _, w_ih, w_hh = operands[:5]
        product = _product(w_hh, ctx.structure, len(h))
        with denormals_flushed():
            kept, (grad_out, grad_h, grad_c) = Kept(states, cells, gates, extra), grads
            found = backward(ctx.cell, kept, x, w_ih, product, grad_out, grad_h, grad_c, ctx.needs_input_grad[2])
        needed = zip(found, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(grad if need and grad.numel() else None for grad, need in needed)


def _product(weight: Tensor, structure: Structure | None, batch: int) -> Product:
    return DenseProduct(weight, batch) if structure is None else SparseProduct(weight, structure, batch)


def _results(kept: Kept, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = kept.states[1:].transpose(1, 2).contiguous()
    last = kept.cells[-1].t().contiguous() if kept.cells.numel() else c.clone()
    return out, kept.states[-1].t().contiguous(), last


def _twice(ctx: Any, operands: list[Tensor], grads: tuple[Any, ...]) -> list[Tensor | None]:
    """The backward pass of the plain operations, which can be differentiated again."""
    x, h, c, w_ih, w_hh, b_ih, b_hh = operands
    if ctx.structure is not None:
        support = torch.ops.deepstruct.read_support(torch.ones_like(w_hh), *ctx.structure[:3])
        mask = torch.empty_like(w_hh)
        torch.ops.deepstruct.write_support(support, *ctx.structure[:3], mask)
        w_hh = w_hh * mask
    results = unrolled(ctx.cell, x, h, c, w_ih, w_hh, b_ih, b_hh)
    given = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None and r.requires_grad]
    wanted = [t for t, need in zip(operands, ctx.needs_input_grad[2:], strict=True) if need]
    found = iter(
        torch.autograd.grad([r for r, _ in given], wanted, [g for _, g in given], create_graph=True, allow_unused=True)
    )
    return [next(found) if need else None for need in ctx.needs_input_grad[2:]]


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers below the smallest normal one are zero meanwhile.

    Gradients that vanish over many steps pass through denormal numbers, which processors work on ten times as long.
    """
    if bool(torch.full((), 1e-310, dtype=torch.float64) * 1 == 0) or not torch.set_flush_denormal(True):
        yield  # so it is anyway, or cannot be here
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def run(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor,
    structure: Structure | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The passes of our own, with a batch of any size: the sparse kernels take it in parts."""
    operands = (x, h, c, w_ih, w_hh, b_ih, b_hh)
    if structure is None:
        return SequenceFunction.apply(cell, None, *operands)
    batch, unit, most = len(h), UNIT // x.element_size(), TILE // x.element_size()
    parts = [
        SequenceFunction.apply(
            cell, structure, _padded(x[:, low : low + most], 1, unit), _padded(h[low : low + most], 0, unit),
            _padded(c[low : low + most], 0, unit), *operands[3:],
        )
        for low in range(0, batch, most)
    ]  # fmt: skip
    out, last, cells = (_joined(p, dim) for p, dim in zip(zip(*parts, strict=True), (1, 0, 0), strict=True))
    return out[:, :batch], last[:batch], cells[:batch]


def _joined(parts: tuple[Tensor, ...], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _padded(tensor: Tensor, dim: int, unit: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = -shape[dim] % unit
    return torch.cat([tensor, tensor.new_zeros(shape)], dim) if shape[dim] else tensor


# -- the same as an operator: its first result is what the hidden states are views of


@torch.library.custom_op("deepstruct::recurrent", mutates_args=())
def _recurrent(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kept = forward(cell, x, h, c, w_ih, DenseProduct(w_hh, len(h)), b_ih, b_hh)
    return kept.states, kept.cells, kept.gates, kept.extra


@_recurrent.register_fake
def _(
    cell: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kind, (batch, hidden), steps = CELLS[cell], h.shape, x.shape[0]
    gates = x.new_empty(steps, kind.gates * hidden, batch)
    states = x.new_empty(steps + 1, hidden, batch)
    cells = x.new_empty(steps + 1, hidden, batch) if kind.has_cell else x.new_empty(0)
    return states, cells, gates, torch.empty_like(gates) if kind.split else x.new_empty(0)


@torch.library.custom_op("deepstruct::recurrent_backward", mutates_args=())
def _recurrent_backward(
    cell: str, grad_states: Tensor, grad_cells: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, states: Tensor,
    cells: Tensor, gates: Tensor, extra: Tensor,
) -> list[Tensor]:  # fmt: skip
    with denormals_flushed():
        found = backward(
            cell, Kept(states, cells, gates, extra), x, w_ih, DenseProduct(w_hh, x.shape[1]),
            grad_states[1:].transpose(1, 2), None, grad_cells[-1].t() if grad_cells.numel() else None, True,
        )  # fmt: skip
    return [t.contiguous() for t in found]


@_recurrent_backward.register_fake
def _(
    cell: str, grad_states: Tensor, grad_cells: Tensor, x: Tensor, w_ih: Tensor, w_hh: Tensor, states: Tensor,
    cells: Tensor, gates: Tensor, extra: Tensor,
) -> list[Tensor]:  # fmt: skip
    hidden, batch = states.shape[1:]
    h = x.new_empty(batch, hidden)
    c = torch.empty_like(h) if CELLS[cell].has_cell else x.new_empty(0)
    bias = x.new_empty(w_ih.shape[0])
    shapes = [t.new_empty(t.shape) for t in (x, h, c, w_ih, w_hh)]
    return [*shapes, bias, torch.empty_like(bias)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.cell = inputs[0]
    x, w_ih, w_hh = inputs[1], inputs[4], inputs[5]
    ctx.save_for_backward(x, w_ih, w_hh, *output)


def _backward(ctx: Any, grad_states: Tensor, grad_cells: Tensor, grad_gates: Any, grad_extra: Any) -> tuple[Any, ...]:
    grads = torch.ops.deepstruct.recurrent_backward(ctx.cell, grad_states, grad_cells, *ctx.saved_tensors)
    if not CELLS[ctx.cell].has_cell:
        grads[2] = None
    return (None, *grads)


torch.library.register_autograd("deepstruct::recurrent", _backward, setup_context=_keep)


def compiled(cell: str, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `run` gives without a structure, for compilers."""
    states, cells, _, _ = torch.ops.deepstruct.recurrent(cell, x, h, c, *weights)
    return states[1:].transpose(1, 2), states[-1].t(), cells[-1].t() if CELLS[cell].has_cell else c
