"""How a masked product is carried out: what is kept per mask, and the two ways to multiply.

A plan belongs to a mask and lasts as long as it does. It holds the structure of the mask, made anew when the
mask's version counter has moved, and memory for W * M that is used again in every step.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.weak import WeakIdKeyDictionary

from deepstruct.errors import ModelStateError
from deepstruct.sparse import calibration, ops
from deepstruct.sparse.structure import Structure, of_mask

_plans: WeakIdKeyDictionary = WeakIdKeyDictionary()


class _Use:
    """Held by a graph that still needs a buffer; gone when the graph is."""


class Plan:
    """What is known of one mask. Not saved, copied or pickled: it is made again where it is needed."""

    def __init__(self, mask: Tensor) -> None:
        self._mask = weakref.ref(mask)
        self._key: tuple[Any, ...] | None = None
        self._clear()

    def _clear(self) -> None:
        self._density: float | None = None
        self._structure: Structure | None = None
        self._alive: tuple[Tensor, Tensor] | None = None
        self._asked_alive = False
        self._float_mask: Tensor | None = None
        self._product: Tensor | None = None
        self._uses: weakref.WeakSet[_Use] = weakref.WeakSet()
        self._grad: Tensor | None = None

    def _current(self) -> Tensor:
        mask = self._mask()
        assert mask is not None  # a plan is looked up by its mask
        key = (mask._version, mask.data_ptr(), mask.shape, mask.stride(), mask.device)
        if key != self._key:
            self._clear()
            self._key = key
        return mask

    def density(self) -> float:
        mask = self._current()
        if self._density is None:
            self._density = int(torch.count_nonzero(mask)) / max(mask.numel(), 1)
        return self._density

    def structure(self) -> Structure:
        mask = self._current()
        if self._structure is None:
            self._structure = of_mask(mask.flatten(1))[0]
        return self._structure

    def alive_channels(self) -> tuple[Tensor, Tensor] | None:
        """Output and input channels of a convolution that have any weight, int64; None if all have."""
        mask = self._current()
        if not self._asked_alive:
            kernels = mask.flatten(2).any(2)
            outputs, inputs = kernels.any(1), kernels.any(0)
            if not (bool(outputs.all()) and bool(inputs.all())):
                self._alive = outputs.nonzero().flatten(), inputs.nonzero().flatten()
            self._asked_alive = True
        return self._alive

    def wants_sparse(self, backend: str, batch: int, dtype: torch.dtype) -> bool:
        if backend != "auto":
            return backend == "sparse"
        mask = self._current()
        return calibration.sparse_pays(mask.numel(), batch, self.density)

    def float_mask(self, like: Tensor) -> Tensor:
        # torch multiplies two floats several times faster than a float by a boolean.
        mask = self._current()
        if self._float_mask is None or self._float_mask.dtype != like.dtype:
            self._float_mask = mask.to(like.dtype)
        return self._float_mask

    def masked_weight(self, weight: Tensor) -> tuple[Tensor, _Use]:
        """weight * mask, in memory that is kept, unless a graph still needs what it holds.

        It is computed every time: who writes to `weight.data` leaves no trace in the version counter.
        """
        multiplier = self.float_mask(weight)
        if self._product is None or len(self._uses) or self._product.dtype != weight.dtype:
            self._product, self._uses = torch.empty_like(multiplier), weakref.WeakSet()
        torch.mul(weight, multiplier, out=self._product)
        use = _Use()
        self._uses.add(use)
        return self._product, use

    def weight_gradient(self, values: Tensor, structure: Structure, shape: torch.Size) -> Tensor:
        """Zeros with `values` on the support, in the last gradient's memory if nobody has that still.

        A fresh 64 MB of zeros costs 45 ms in page faults where zeroing known memory costs 7. What it holds is
        written anew in full: somebody may have changed the last gradient where there is no connection.
        """
        kept = self._grad
        if kept is None or kept.dtype != values.dtype or kept.shape != shape or _holders(kept) != 1:
            kept = self._grad = values.new_empty(shape)
        torch.ops.deepstruct.write_support(values, *structure[:3], kept)
        return kept.detach()


def _holders(tensor: Tensor) -> int:
    storage = tensor.untyped_storage()
    count = getattr(torch._C, "_storage_Use_Count", None)
    return 2 if count is None else count(storage._cdata) - 1  # less the handle that asks


def plan_of(mask: Tensor) -> Plan:
    """The plan of a mask; a throw-away plan when torch does not track the mask's versions.

    So, too, under a dispatch mode: what a trace computes may be fake, and must not outlive it.
    """
    if mask.is_inference() or torch._C._len_torch_dispatch_stack():
        return Plan(mask)
    plan = _plans.get(mask)
    if plan is None:
        plan = _plans[mask] = Plan(mask)
    return plan


def forget(mask: Tensor) -> None:
    """Drop what is known of a mask: needed after edits that torch does not see, as through `mask.data`."""
    _plans.pop(mask, None)


def _twice(ctx: Any, grad: Tensor, x: Tensor) -> tuple[Any, ...]:
    """The backward pass as plain tensor operations, for gradients of gradients."""
    weight, mask = ctx.weight, ctx.mask
    if (weight._version, mask._version) != ctx.versions:
        raise ModelStateError(
            "the weight or the mask was changed in place between the forward and the backward pass: "
            "gradients of gradients need them as they were"
        )
    need_bias = ctx.needs_input_grad[3]
    return grad @ (weight * mask), (grad.T @ x) * mask, None, grad.sum(0) if need_bias else None, None


def _remember(ctx: Any, weight: Tensor, mask: Tensor, plan: Plan) -> None:
    # Not saved for backward: as with a fresh W * M, the weight may change before the backward pass.
    ctx.weight, ctx.mask, ctx.plan = weight, mask, plan
    ctx.versions = (weight._version, mask._version)


class DenseProduct(torch.autograd.Function):
    """x (W * M)' + b by a whole matrix product, without fresh memory for W * M in every step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        masked, ctx.use = plan.masked_weight(weight)
        _remember(ctx, weight, mask, plan)
        ctx.multiplier = plan.float_mask(weight)
        ctx.save_for_backward(x, masked)
        return linear(x, masked, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        x, masked = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _twice(ctx, grad, x)
        need_x, need_weight, _, need_bias = ctx.needs_input_grad[:4]
        grad_bias = grad.sum(0) if need_bias else None
        grad_x = grad @ masked if need_x else None
        grad_weight = (grad.T @ x).mul_(ctx.multiplier) if need_weight else None
        return grad_x, grad_weight, None, grad_bias, None


class SparseProduct(torch.autograd.Function):
    """x (W * M)' + b on the support of M only; the gradient of W is dense, as the optimizer expects."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        ctx.structure = structure = plan.structure()
        values = torch.ops.deepstruct.read_support(weight, *structure[:3])
        _remember(ctx, weight, mask, plan)
        ctx.save_for_backward(x, values)
        return ops.product(x, values, bias, structure, weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        x, values = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _twice(ctx, grad, x)
        need_x, need_weight, _, need_bias = ctx.needs_input_grad[:4]
        grad_bias = grad.sum(0) if need_bias else None
        grad_x, grad_values = ops.gradients(grad, x, values, ctx.structure, need_x, need_weight)
        grad_weight = None
        if grad_values is not None:
            grad_weight = ctx.plan.weight_gradient(grad_values, ctx.structure, ctx.weight.shape)
        return grad_x, grad_weight, None, grad_bias, None
