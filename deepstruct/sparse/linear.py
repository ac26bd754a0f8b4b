"""SparseLinear: a linear layer that stores its connections only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.sparse.checks import check_finite, check_input, check_mask
from deepstruct.sparse.functional import sparse_linear
from deepstruct.sparse.layout import check, coordinates, shape_of
from deepstruct.sparse.rewire import carry_over, changed_support, follow_optimizers
from deepstruct.sparse.structure import Structure, build_structure, of_mask


class SparseLinear(nn.Module):
    """y = x W' + b with W (out_features, in_features) given by its non-zeros: parameter `values` (nnz).

    Where they sit is in seven integer buffers, about six bytes per non-zero; gradients and optimizer state
    are per non-zero. `mask` says which connections exist; without it, round(density * in * out) are drawn
    at random. Weights start as those of a dense layer with the mean number of connections as inputs.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        density: float = 0.1,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0:
            raise InputError(f"sizes are at least 0, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        if mask is None:
            rows, cols = _random_support(out_features, in_features, density, generator)
            structure, _ = build_structure(rows, cols, (out_features, in_features))
        else:
            check_mask(mask, (out_features, in_features), mask.device)
            structure, _ = of_mask(mask)
        self._set_structure(structure, device)
        self.values = nn.Parameter(torch.empty(len(structure.columns), device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters(generator)

    @classmethod
    def from_dense(
        cls, weight: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> SparseLinear:
        """A layer with the entries of `weight` (out, in) where `mask` is true, or where they are not zero."""
        if weight.dim() != 2:
            raise InputError(f"a weight has two axes (out, in), got shape {tuple(weight.shape)}")
        mask = weight.detach() != 0 if mask is None else mask
        check_mask(mask, weight.shape, weight.device)
        check_finite(weight.detach()[mask], "the weight")
        layer = cls(
            weight.shape[1],
            weight.shape[0],
            bias is not None,
            mask=mask,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            layer.values.copy_(weight[layer.indices().unbind()])
            if bias is not None:
                layer.bias.copy_(bias)
        return layer

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        fan_in = len(self.values) / max(self.out_features, 1)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        with torch.no_grad():
            for parameter in (self.values, self.bias):
                if parameter is not None:
                    parameter.uniform_(-bound, bound, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_features, self.values.device)
        if x.dtype != self.values.dtype and not torch.is_autocast_enabled(x.device.type):
            raise InputError(
                f"the input is {x.dtype}, the values are {self.values.dtype}: convert one of them"
            )
        return sparse_linear(x, self.values, self.structure(), self.out_features, self.bias)

    @property
    def nnz(self) -> int:
        """Number of connections."""
        return len(self.values)

    def structure(self) -> Structure:
        """The tensors that say where the values sit."""
        buffers: dict[str, Any] = self._buffers  # read directly: seven attributes take longer than a small product
        return Structure(*[buffers[name] for name in Structure._fields])

    def indices(self) -> Tensor:
        """(2, nnz), int64: row (output) and column (input) of each value."""
        return torch.stack(coordinates(*self.structure()[:3]))

    def mask(self) -> Tensor:
        """Boolean (out_features, in_features): a copy, not a handle."""
        mask = torch.zeros(self.out_features, self.in_features, dtype=torch.bool, device=self.values.device)
        mask[self.indices().unbind()] = True
        return mask

    def to_dense(self) -> Tensor:
        """The weight matrix (out_features, in_features), differentiable with respect to `values`."""
        zeros = self.values.new_zeros(self.out_features, self.in_features)
        return zeros.index_put(self.indices().unbind(), self.values)

    def update_structure(
        self,
        drop: Tensor | None = None,
        grow: Tensor | None = None,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] = (),
    ) -> None:
        """Move connections: remove the values at `drop`, add zero-valued ones at `grow`.

        `drop` is a boolean (nnz,) tensor or positions among the values; `grow` a boolean (out, in) tensor or
        (2, n) coordinates. What was just dropped may grow again, from zero. The parameter object stays, so
        optimizers keep knowing it; pass them, and state per connection (momentum, second moments) moves with
        its connection and starts at zero for new ones. A gradient present moves the same way.
        Raises InputError for positions out of range or connections that already exist.
        """
        indices, kept, source = changed_support(
            self.indices(), drop, grow, (self.out_features, self.in_features)
        )
        structure, order = build_structure(indices[0], indices[1], (self.out_features, self.in_features))
        source, kept = source[order], kept[order]
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        states = follow_optimizers(optimizers, self.values)  # complains before anything has changed
        with torch.no_grad():
            for state, name in states:
                state[name] = carry_over(state[name], kept, source)
            grad = self.values.grad
            self.values.grad = None
            self.values.data = carry_over(self.values.detach(), kept, source)
            if grad is not None:
                self.values.grad = carry_over(grad, kept, source)
        self._set_structure(structure, self.values.device)

    def _set_structure(self, structure: Structure, device: torch.device | str | None) -> None:
        for name, tensor in zip(Structure._fields, structure, strict=True):
            self.register_buffer(name, tensor.to(device) if device is not None else tensor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A checkpoint may hold another structure: it is checked and taken over, with as many values."""
        stored = [state_dict[prefix + name] for name in Structure._fields if prefix + name in state_dict]
        values = state_dict.get(f"{prefix}values")
        if len(stored) == len(Structure._fields) and values is not None:
            _check_structure(Structure(*stored), values, (self.out_features, self.in_features), prefix)
            self._set_structure(Structure(*(t.clone() for t in stored)), self.values.device)
            if values.shape != self.values.shape:
                self.values.data = self.values.new_empty(values.shape)
                self.values.grad = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        total = max(self.in_features * self.out_features, 1)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={self.nnz}, "
            f"density={self.nnz / total:.4g}, bias={self.bias is not None}"
        )


def _check_structure(stored: Structure, values: Tensor, shape: tuple[int, int], prefix: str) -> None:
    for tensors, expected in ((stored[:3], shape), (stored[3:6], shape[::-1])):
        check(*tensors)
        if shape_of(tensors[0]) != expected:
            raise InputError(
                f"{prefix}table in the checkpoint is of shape {shape_of(tensors[0])}, not {expected}"
            )
    rows, cols = coordinates(*stored[:3])
    twin_rows, twin_cols = coordinates(*stored[3:6])
    order = stored.twin_order.to(torch.int64)
    fits = values.shape == rows.shape == twin_rows.shape == order.shape
    fits = fits and (not len(order) or (int(order.min()) >= 0 and int(order.max()) < len(rows)))
    if not fits or not torch.equal(rows[order], twin_cols) or not torch.equal(cols[order], twin_rows):
        raise InputError(
            f"the structure under {prefix or 'this layer'} in the checkpoint does not fit its values"
        )


def _random_support(
    rows: int, cols: int, density: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    if not 0 <= density <= 1:
        raise InputError(f"density={density}: write a number from 0 to 1")
    flat = torch.randperm(rows * cols, generator=generator)[: round(density * rows * cols)].sort().values
    return flat // max(cols, 1), flat % max(cols, 1)
