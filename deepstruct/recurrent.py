"""Recurrent layers and models whose input-to-hidden and hidden-to-hidden connections can be masked.

A mask is applied to the weights once for each sequence. In training on CPUs the sequence runs in passes of our own,
through the sparse kernels where the hidden-to-hidden mask is sparse enough; else in PyTorch's fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from deepstruct.errors import InputError
from deepstruct.sparse import recurrent_ops
from deepstruct.sparse.checks import check_backend, check_finite, check_mask
from deepstruct.sparse.plan import plan_of

__all__ = [
    "BaseRecurrentLayer",
    "MaskedDeepRNN",
    "MaskedGRULayer",
    "MaskedLSTMLayer",
    "MaskedRecurrentLayer",
]


class BaseRecurrentLayer(nn.Module):
    """What masked recurrent layers share: weights, masks, and the run over a sequence.

    Weights are (gates * hidden_size, input_size) and (gates * hidden_size, hidden_size), biases
    (gates * hidden_size,), masks boolean and of the weights' shapes.

    Args:
        input_size: features of the input.
        hidden_size: features of the hidden state.
        batch_first: whether sequences are (batch, steps, features) rather than (steps, batch, features).

    `backend` says how hidden-to-hidden products of sequences are done on the CPU: "sparse" computes only where the
    mask is true, "dense" multiplies whole matrices, "auto" takes what was measured to be faster here.
    """

    gates = 1
    cell = ""  # name of the fused kernel
    backend = "auto"
    # weight's name -> gradient of the whole matrix, absent connections included, while something watches (pruning)
    gradients: dict[str, Tensor | None] | None = None

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = False, **_: Any) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(f"{name} must be an integer of at least 1, got {size!r}")
        self._input_size, self._hidden_size, self._batch_first = input_size, hidden_size, bool(batch_first)
        rows = self.gates * hidden_size
        self._weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self._weight_hh = nn.Parameter(torch.empty(rows, hidden_size))
        self._bias_ih = nn.Parameter(torch.empty(rows))
        self._bias_hh = nn.Parameter(torch.empty(rows))
        self.register_buffer("_mask_i2h", torch.ones(rows, input_size, dtype=torch.bool))
        self.register_buffer("_mask_h2h", torch.ones(rows, hidden_size, dtype=torch.bool))
        self.reset_parameters(keep_mask=True)

    def reset_parameters(self, keep_mask: bool = False) -> None:
        """Draw all weights from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)); unless `keep_mask`, unmask everything."""
        bound = 1.0 / math.sqrt(self._hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        if not keep_mask:
            with torch.no_grad():
                self._mask_i2h.fill_(True)
                self._mask_h2h.fill_(True)

    @property
    def i2h_mask(self) -> Tensor:
        """Which input-to-hidden connections exist; writing into it changes the layer."""
        return self._mask_i2h

    @property
    def h2h_mask(self) -> Tensor:
        """Which hidden-to-hidden connections exist; writing into it changes the layer."""
        return self._mask_h2h

    def set_i2h_mask(self, mask: Tensor) -> None:
        """Replace the input-to-hidden mask. Raises InputError for another shape, dtype or device."""
        check_mask(mask, self._weight_ih.shape, self._weight_ih.device)
        self._mask_i2h = mask.detach()

    def set_h2h_mask(self, mask: Tensor) -> None:
        """Replace the hidden-to-hidden mask. Raises InputError for another shape, dtype or device."""
        check_mask(mask, self._weight_hh.shape, self._weight_hh.device)
        self._mask_h2h = mask.detach()

    def recompute_mask(self, threshold: float, *, i2h: bool = True, h2h: bool = True) -> None:
        """Keep exactly the weights with magnitude >= `threshold`. Raises InputError on NaN weights."""
        for chosen, weight, put in (
            (i2h, self._weight_ih, self.set_i2h_mask),
            (h2h, self._weight_hh, self.set_h2h_mask),
        ):
            if chosen:
                check_finite(weight.detach(), "the weight")
                put(weight.detach().abs() >= threshold)

    def masked_weights(self) -> list[Tensor]:
        """Both weights with their masks applied, and both biases."""
        # A mask in the weight's dtype: a product with booleans costs many times more.
        ih = self._weight_ih * self._mask_i2h.to(self._weight_ih.dtype)
        hh = self._weight_hh * self._mask_h2h.to(self._weight_hh.dtype)
        if self.gradients is not None:
            for name, weight in (("_weight_ih", ih), ("_weight_hh", hh)):
                if name in self.gradients and weight.requires_grad:
                    weight.register_hook(partial(self._saw, name))
        return [ih, hh, self._bias_ih, self._bias_hh]

    def _saw(self, name: str, grad: Tensor) -> None:
        if self.gradients is not None and name in self.gradients:
            known = self.gradients[name]
            self.gradients[name] = grad.detach().clone() if known is None else known + grad.detach()

    def forward(self, input: Tensor, hx: Any) -> Any:
        """One step: input (batch, input_size) and the state before it; the state after it."""
        weight_ih, weight_hh, bias_ih, bias_hh = self.masked_weights()
        return self._step(nn.functional.linear(input, weight_ih, bias_ih), hx, weight_hh, bias_hh)

    def unfold(self, input: Tensor | PackedSequence, hx: Any = None) -> Tensor | PackedSequence:
        """The hidden states of all steps. See `sequence`."""
        return self._packed(input, hx)[0] if isinstance(input, PackedSequence) else self.sequence(input, hx)[0]

    def sequence(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Tensor | PackedSequence, Any]:
        """Run over a whole sequence.

        Args:
            input: (steps, batch, input_size), or batch first; or a packed sequence.
            hx: state before the first step, (batch, hidden_size); zero without it.

        Returns:
            (hidden states of all steps in the form of the input, state after the last step). The state of a
            packed sequence is the one after the last step of each of its sequences.
        """
        if isinstance(input, PackedSequence):
            out, last = self._packed(input, hx)
            if isinstance(last, tuple):  # cell states are not among the outputs of the padded run
                last = (last[0], self._packed_cells(input, hx, len(last[0])))
            return out, last
        if input.dim() != 3 or input.shape[2] != self._input_size:
            form = "(batch, steps, features)" if self._batch_first else "(steps, batch, features)"
            raise InputError(
                f"a sequence is {form} with {self._input_size} features, got a tensor of shape {tuple(input.shape)}"
            )
        steps = input.shape[1 if self._batch_first else 0]
        if steps == 0:
            raise InputError(f"a sequence has at least one step, got a tensor of shape {tuple(input.shape)}")
        batch = input.shape[0 if self._batch_first else 1]
        return self._run(input, self._initial(hx, batch, input))

    # -- what cells differ in

    def _step(self, gates: Tensor, hx: Any, weight_hh: Tensor, bias_hh: Tensor) -> Any:
        raise NotImplementedError

    def _initial(self, hx: Any, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """The state as a tuple, zero where it is not given."""
        if hx is None:
            return (like.new_zeros(batch, self._hidden_size),)
        return (self._check_state(hx, batch),)

    def _check_state(self, state: Any, batch: int) -> Tensor:
        if not isinstance(state, Tensor) or state.shape != (batch, self._hidden_size):
            got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
            raise InputError(f"a state is ({batch}, {self._hidden_size}) here, got {got}")
        return state

    # -- over a sequence

    def _run(self, input: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        x = input.transpose(0, 1) if self._batch_first else input
        if not self.cell:
            out, last = self._unrolled(x, state, self.masked_weights())
        else:
            out, h, c = self._whole(x, state[0], state[1] if len(state) == 2 else x.new_empty(0))
            last = (h, c) if len(state) == 2 else h
        return (out.transpose(0, 1) if self._batch_first else out), last

    def _whole(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return recurrent_ops.compiled(self.cell, x, h, c, *self.masked_weights())
        stored = (self._weight_ih, self._weight_hh, self._bias_ih, self._bias_hh)
        own = recurrent_ops.ours(x, h, c, *stored)
        if own:
            plan = plan_of(self._mask_h2h)
            sparse = plan.wants_sparse(check_backend(self.backend), len(h), x.dtype)
            if sparse and self.gradients is None:  # the sparse kernels know no gradient of absent connections
                ih = self._weight_ih * self._mask_i2h.to(x.dtype)
                return recurrent_ops.run(self.cell, x, h, c, ih, *stored[1:], structure=plan.structure())
            own = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h, c, *stored))
        run = recurrent_ops.run if own else recurrent_ops.fused
        return run(self.cell, x, h, c, *self.masked_weights())

    def _unrolled(self, x: Tensor, state: Any, weights: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """Step by step, for cells without a fused kernel; the input is projected in one product."""
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        gates, outputs, hx = nn.functional.linear(x, weight_ih, bias_ih), [], state[0]
        for step in gates:
            hx = self._step(step, hx, weight_hh, bias_hh)
            outputs.append(hx)
        return torch.stack(outputs), hx

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        """Over the padded form and then selected, which PyTorch's CPU kernels run faster than the packed form.

        The hidden states returned are those of the last steps; the cell state of an LSTM is not.
        """
        padded, lengths = pad_packed_sequence(packed, batch_first=self._batch_first)
        output, last = self.sequence(padded, hx)
        assert isinstance(output, Tensor)
        by_step = output.transpose(0, 1) if self._batch_first else output
        batch = torch.arange(len(lengths), device=output.device)
        end = by_step[lengths.to(output.device) - 1, batch]
        last = (end, last[1]) if isinstance(last, tuple) else end
        order = batch if packed.sorted_indices is None else packed.sorted_indices
        sizes = packed.batch_sizes.to(output.device)
        kept = torch.arange(int(sizes[0]), device=output.device)[None] < sizes[:, None]
        data = by_step.index_select(1, order)[kept]
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), last

    def _packed_cells(self, packed: PackedSequence, hx: Any, batch: int) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self._input_size}, {self._hidden_size}, batch_first={self._batch_first}"


class MaskedRecurrentLayer(BaseRecurrentLayer):
    """Elman's recurrent layer: h' = nonlinearity(W_ih x + b_ih + W_hh h + b_hh).

    Args:
        nonlinearity: a module or function of a tensor; torch.nn.Tanh and torch.nn.ReLU have fused kernels.
    """

    def __init__(
        self, input_size: int, hidden_size: int, batch_first: bool = False,
        nonlinearity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, batch_first)
        nonlinearity = nn.Tanh() if nonlinearity is None else nonlinearity
        if not callable(nonlinearity):
            raise InputError(f"the nonlinearity must be a module or function, got {nonlinearity!r}")
        self._nonlinearity = nonlinearity
        fused = {nn.Tanh: "rnn_tanh", nn.ReLU: "rnn_relu"}
        self.cell = fused.get(type(nonlinearity), "")

    def _step(self, gates: Tensor, hx: Any, weight_hh: Tensor, bias_hh: Tensor) -> Any:
        return self._nonlinearity(gates + nn.functional.linear(hx, weight_hh, bias_hh))


class MaskedGRULayer(BaseRecurrentLayer):
    """A gated recurrent unit with gates in PyTorch's order: reset, update, new."""

    gates = 3
    cell = "gru"

    def _step(self, gates: Tensor, hx: Any, weight_hh: Tensor, bias_hh: Tensor) -> Any:
        i_reset, i_update, i_new = gates.chunk(3, 1)
        h_reset, h_update, h_new = nn.functional.linear(hx, weight_hh, bias_hh).chunk(3, 1)
        update = torch.sigmoid(i_update + h_update)
        new = torch.tanh(i_new + torch.sigmoid(i_reset + h_reset) * h_new)
        return new + update * (hx - new)


class MaskedLSTMLayer(BaseRecurrentLayer):
    """A long short-term memory with gates in PyTorch's order: input, forget, cell, output.

    Its state is (hidden, cell); where a sequence is given a single tensor, it starts both.
    """

    gates = 4
    cell = "lstm"

    def _step(self, gates: Tensor, hx: Any, weight_hh: Tensor, bias_hh: Tensor) -> Any:
        h, c = hx
        i, f, g, o = (gates + nn.functional.linear(h, weight_hh, bias_hh)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def _initial(self, hx: Any, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        if isinstance(hx, tuple) and len(hx) == 2:
            return self._check_state(hx[0], batch), self._check_state(hx[1], batch)
        (h,) = super()._initial(hx, batch, like)
        return h, h.clone()

    def _packed_cells(self, packed: PackedSequence, hx: Any, batch: int) -> Tensor:
        order = packed.sorted_indices
        state = [s[None] if order is None else s[None].index_select(1, order)
                 for s in self._initial(hx, batch, packed.data)]  # fmt: skip
        cells = recurrent_ops.packed_lstm(packed.data, packed.batch_sizes, state, self.masked_weights())
        return cells[0] if packed.unsorted_indices is None else cells[0].index_select(0, packed.unsorted_indices)


class MaskedDeepRNN(nn.Module):
    """Recurrent layers on top of each other, all of which can be masked.

    Args:
        input_size: features of the input.
        hidden_layers: features of the hidden state of every layer, such as [50, 50].
        build_recurrent_layer: class of the layers, called with (input size, hidden size, batch_first,
            nonlinearity=...).
        nonlinearity: of the cells that take one.
        batch_first: whether sequences are (batch, steps, features) rather than (steps, batch, features).
    """

    def __init__(
        self, input_size: int, hidden_layers: Sequence[int],
        build_recurrent_layer: Callable[..., BaseRecurrentLayer] = MaskedRecurrentLayer,
        nonlinearity: Callable[[Tensor], Tensor] | None = None, batch_first: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not hidden_layers:
            raise InputError("hidden_layers is empty: a recurrent model has at least one layer")
        nonlinearity = nn.Tanh() if nonlinearity is None else nonlinearity
        if not callable(nonlinearity):
            raise InputError(f"the nonlinearity must be a module or function, got {nonlinearity!r}")
        self._input_size, self._hidden_layers, self._batch_first = input_size, list(hidden_layers), bool(batch_first)
        sizes = [input_size, *hidden_layers]
        self._recurrent_layers = nn.ModuleList(
            build_recurrent_layer(before, size, batch_first, nonlinearity=nonlinearity)
            for before, size in zip(sizes, hidden_layers, strict=False)
        )

    @property
    def recurrent_layers(self) -> list[BaseRecurrentLayer]:
        """The layers, the first one first."""
        return list(self._recurrent_layers)  # type: ignore[arg-type]

    def apply_mask(self, threshold: float = 0.0, i2h: bool = False, h2h: bool = False) -> None:
        """Mask the weights of all layers whose magnitude is below `threshold`.

        Args:
            i2h: whether input-to-hidden connections are masked anew; their masks stay as they are without it.
            h2h: the same for hidden-to-hidden connections.
        """
        for layer in self.recurrent_layers:
            layer.recompute_mask(threshold, i2h=i2h, h2h=h2h)

    def reset_parameters(self, keep_mask: bool = False) -> None:
        """Draw all weights anew; unless `keep_mask`, let every connection exist again."""
        for layer in self.recurrent_layers:
            layer.reset_parameters(keep_mask)

    def forward(
        self, input: Tensor | PackedSequence, hx: Sequence[Any] | None = None, *, full_sequence: bool = False
    ) -> Tensor | PackedSequence:
        """The last hidden state of the last layer, (batch, features), or with `full_sequence` those of all steps.

        Args:
            input: (steps, batch, features), or batch first; or a packed sequence.
            hx: one state for each layer; zero without it.
        """
        if hx is not None and len(hx) != len(self._recurrent_layers):
            raise InputError(f"hx holds {len(hx)} states for {len(self._recurrent_layers)} layers")
        x: Tensor | PackedSequence = input
        lengths: Tensor | None = None
        if isinstance(input, PackedSequence):  # padding comes after all that is read, and no step sees a later one
            x, lengths = pad_packed_sequence(input, batch_first=self._batch_first)
        layers = self.recurrent_layers
        # The gradient of a last state is a matrix; that of all states would be as many, all but one of them zero.
        last_only = lengths is None and not full_sequence
        for k, layer in enumerate(layers):
            state = None if hx is None else hx[k]
            if last_only and layer is layers[-1]:
                last = layer.sequence(x, state)[1]
                h: Tensor = last[0] if isinstance(last, tuple) else last
                return h
            x = layer.unfold(x, state)
        assert isinstance(x, Tensor)
        if full_sequence and lengths is not None:
            return pack_padded_sequence(x, lengths, self._batch_first, enforce_sorted=False)
        if full_sequence:
            return x
        assert lengths is not None
        by_step = x.transpose(0, 1) if self._batch_first else x
        return by_step[lengths.to(x.device) - 1, torch.arange(len(lengths), device=x.device)]
