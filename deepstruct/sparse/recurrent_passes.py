"""A recurrent layer over a whole sequence and back through time, on the CPU, as few and as large products as it takes.

Forward, the input is projected for all steps at once. Back, the gradients of the weights are summed over a few dozen
steps in one product. States are (features, batch): see `recurrent_cells`.

Shapes: x (steps, batch, input), h and c (batch, hidden), weights (gates * hidden, input) and (gates * hidden, hidden).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from deepstruct.sparse.recurrent_cells import CELLS
from deepstruct.sparse.structure import Structure

WIDE = 256  # samples times steps that the gradient of the weights is taken over at a time
UNIT, TILE = 64, 256  # the sparse kernels take rows of this many bytes, and multiples of it up to the second number


class Kept(NamedTuple):
    """What the way back needs, feature-major.

    states and cells are (steps + 1, hidden, batch), the first ones before the first step; gates (steps, gates *
    hidden, batch) hold activations; extra (steps, gates * hidden, batch) the hidden state's projections. What a cell
    has not is empty.
    """

    states: Tensor
    cells: Tensor
    gates: Tensor
    extra: Tensor


class Grads(NamedTuple):
    """Gradients in the order of the operands."""

    x: Tensor
    h: Tensor
    c: Tensor
    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor
    b_hh: Tensor


class Product(Protocol):
    """The hidden-to-hidden matrix: (rows, hidden)."""

    steps: int  # that `collect` is given at a time
    apart: bool  # whether `add_back` takes rows that lie apart

    def add(self, h: Tensor, out: Tensor) -> None:
        """out (rows, batch) += W h, h (hidden, batch)."""

    def add_back(self, grad: Tensor, out: Tensor) -> None:
        """out (hidden, batch) += W' grad, grad (rows, batch)."""

    def collect(self, grad: Tensor, h: Tensor) -> None:
        """Add to the gradient: grad (rows, steps * batch) times h (hidden, steps * batch) transposed."""

    def gradient(self) -> Tensor:
        """The sum of what was collected, dense."""


class DenseProduct:
    """By whole matrix products."""

    apart = True

    def __init__(self, weight: Tensor, batch: int) -> None:
        self._weight, self._back, self._sum = weight, None, None
        self.steps = max(1, WIDE // batch)

    _back: Tensor | None
    _sum: Tensor | None

    def add(self, h: Tensor, out: Tensor) -> None:
        out.addmm_(self._weight, h)

    def add_back(self, grad: Tensor, out: Tensor) -> None:
        if self._back is None:
            self._back = self._weight.t().contiguous()  # transposed once: half the time of each product
        out.addmm_(self._back, grad)

    def collect(self, grad: Tensor, h: Tensor) -> None:
        if self._sum is None:
            self._sum = grad @ h.t()
        else:
            self._sum.addmm_(grad, h.t())

    def gradient(self) -> Tensor:
        assert self._sum is not None  # there is at least one step
        return self._sum


class SparseProduct:
    """By the sparse kernels, on the support of a structure; the batch fills rows of UNIT to TILE bytes."""

    apart = False

    def __init__(self, weight: Tensor, structure: Structure, batch: int) -> None:
        self._shape, self._structure, self._twin = weight.shape, structure, structure[3:6]
        self._values = torch.ops.deepstruct.read_support(weight, *structure[:3])
        self._back: Tensor | None = None
        self._sum = torch.zeros_like(self._values)
        self.steps = max(1, TILE // (batch * weight.element_size()))

    def add(self, h: Tensor, out: Tensor) -> None:
        torch.ops.deepstruct.sparse_product_(h, self._values, *self._structure[:3], out)

    def add_back(self, grad: Tensor, out: Tensor) -> None:
        if self._back is None:
            self._back = self._values[self._structure.twin_order.long()]
        torch.ops.deepstruct.sparse_product_(grad, self._back, *self._twin, out)

    def collect(self, grad: Tensor, h: Tensor) -> None:
        torch.ops.deepstruct.sparse_support_(grad, h, *self._structure[:3], self._sum)

    def gradient(self) -> Tensor:
        weight = self._values.new_empty(self._shape)
        torch.ops.deepstruct.write_support(self._sum, *self._structure[:3], weight)
        return weight


def forward(
    name: str, x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, product: Product, b_ih: Tensor, b_hh: Tensor
) -> Kept:
    """Over the whole sequence."""
    cell = CELLS[name]
    steps, batch, hidden = len(x), len(h), h.shape[1]
    bias = b_ih if cell.split else b_ih + b_hh
    gates = torch.baddbmm(bias[:, None], w_ih.expand(steps, -1, -1), x.transpose(1, 2))
    states = x.new_empty(steps + 1, hidden, batch)
    states[0] = h.t()
    cells = x.new_empty(steps + 1, hidden, batch) if cell.has_cell else x.new_empty(0)
    extra = b_hh[:, None].repeat(steps, 1, batch) if cell.split else x.new_empty(0)
    none = [x.new_empty(0)] * (steps + 1)
    all_cells = list(cells) if cell.has_cell else none
    if cell.has_cell:
        cells[0] = c.t()
    all_states, all_extra = list(states), list(extra) if cell.split else none
    for t, gate in enumerate(gates):
        product.add(all_states[t], all_extra[t] if cell.split else gate)
        cell.forward(gate, all_extra[t], all_states[t], all_cells[t], all_states[t + 1], all_cells[t + 1])
    return Kept(states, cells, gates, extra)


def _blocks(product: Product, steps: int, rows: int, like: Tensor) -> Tensor:
    """(steps, rows, batch): with the steps of a row one after the other where the product allows it, so that all of
    them are one matrix without a copy."""
    batch = like.shape[2]
    if product.apart:
        return like.new_empty(rows, steps, batch).transpose(0, 1)
    return like.new_empty(steps, rows, batch)


def backward(
    name: str, kept: Kept, x: Tensor, w_ih: Tensor, product: Product, grad_out: Tensor | None, grad_h: Tensor | None,
    grad_c: Tensor | None, need_x: bool,
) -> Grads:  # fmt: skip
    """From the gradients of all hidden states (steps, batch, hidden) and of the last state, each optional."""
    cell, states = CELLS[name], kept.states
    steps, (_, hidden, batch) = len(kept.gates), states.shape
    rows, at_once = kept.gates.shape[1], min(product.steps, len(kept.gates))
    grad = states.new_zeros(hidden, batch) if grad_h is None else grad_h.t().contiguous()
    grad_cell = states.new_empty(0)
    if cell.has_cell:
        grad_cell = states.new_zeros(hidden, batch) if grad_c is None else grad_c.t().contiguous()
    if grad_h is not None and grad.data_ptr() == grad_h.data_ptr():
        grad = grad.clone()
    if grad_c is not None and grad_cell.data_ptr() == grad_c.data_ptr():
        grad_cell = grad_cell.clone()
    grad_gates = _blocks(product, at_once, rows, states)
    grad_hidden = _blocks(product, at_once, rows, states) if cell.split else grad_gates
    one_by_one = [list(grad_gates), list(grad_hidden)]
    grad_x = torch.empty(x.shape, dtype=x.dtype) if need_x else x.new_empty(0)
    grad_ih = torch.zeros_like(w_ih, memory_format=torch.contiguous_format)
    sums = [states.new_zeros(rows), states.new_zeros(rows)]
    for end in range(steps, 0, -at_once):
        begin = max(end - at_once, 0)
        for t in range(end - 1, begin - 1, -1):
            if grad_out is not None:
                grad.add_(grad_out[t].t())
            extra = kept.extra[t] if cell.split else kept.extra
            c, new_c = (kept.cells[t], kept.cells[t + 1]) if cell.has_cell else (kept.cells, kept.cells)
            to_gates, to_hidden = (blocks[t - begin] for blocks in one_by_one)
            cell.backward(kept.gates[t], extra, states[t], c, states[t + 1], new_c, grad, grad_cell, to_gates,
                          to_hidden)  # fmt: skip
            product.add_back(to_hidden, grad)
        n = end - begin
        flat = grad_gates[:n].transpose(0, 1).reshape(rows, n * batch)
        flat_hidden = grad_hidden[:n].transpose(0, 1).reshape(rows, n * batch) if cell.split else flat
        before = states[begin:end].transpose(0, 1).reshape(hidden, n * batch)
        product.collect(flat_hidden, before)
        grad_ih.addmm_(flat, x[begin:end].reshape(n * batch, -1))
        sums[0] += flat.sum(1)
        if cell.split:
            sums[1] += flat_hidden.sum(1)
        if need_x:
            torch.mm(flat.t(), w_ih, out=grad_x[begin:end].view(n * batch, -1))
    return Grads(
        grad_x, grad.t(), grad_cell.t() if cell.has_cell else grad_cell, grad_ih, product.gradient(), sums[0],
        sums[1] if cell.split else sums[0].clone(),
    )  # fmt: skip
