"""Scores from weights and gradients: how much each connection is worth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Tensors
from deepstruct.pruning.view import View
from deepstruct.sparse.masked import MaskedLayer

Loss = Callable[[nn.Module], Tensor]
"""A model -> its loss on some data, as one differentiable number."""


class Magnitude:
    """|w| (LeCun et al. 1990; Han et al. 2015)."""

    def __call__(self, view: View) -> Tensors:
        return {name: weight.abs() for name, weight in view.weights.items()}


class Saliency:
    """The `saliency` of masked layers (|w| unless something else was set on them); |w| of other weights."""

    def __call__(self, view: View) -> Tensors:
        found = {}
        for name, target in view.targets.items():
            layer = target.modules[0]
            found[name] = layer.saliency.detach() if isinstance(layer, MaskedLayer) else view.weights[name].abs()
        return found


class Random:
    """Uniform numbers from 0 to 1, drawn from the plan's generator."""

    def __call__(self, view: View) -> Tensors:
        return {
            name: torch.rand(shape, generator=view.generator).to(view.targets[name].device)
            for name, shape in view.shapes.items()
        }


class _OfGradients:
    """Gradients of the dense weights: of the backward pass before the plan's step, or of a loss of a plain copy."""

    watches = "firing"

    def __init__(self, loss: Loss | None = None) -> None:
        self.loss = loss
        if loss is not None:
            self.watches = "never"

    def gradients(self, view: View) -> Tensors:
        return view.gradients if self.loss is None else _gradients(view, self.loss)


class Gradient(_OfGradients):
    """|dL/dw| of the dense weight, absent connections included (growth of RigL, Evci et al. 2020).

    Without `loss`: of the backward pass before the plan's step. With it: of that loss of a plain copy of the model.
    """

    def __call__(self, view: View) -> Tensors:
        return {name: gradient.abs() for name, gradient in self.gradients(view).items()}


class Snip(_OfGradients):
    """|w dL/dw|: what the loss would change by (SNIP, Lee et al. 2019). `loss` as for `Gradient`."""

    def __call__(self, view: View) -> Tensors:
        return {name: (gradient * view.weights[name]).abs() for name, gradient in self.gradients(view).items()}


class Grasp:
    """w * (H g), g the gradient and H the Hessian of the loss: keeps what gradient flow needs (Wang et al. 2020)."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def __call__(self, view: View) -> Tensors:
        model, weights = view.plain()
        with torch.enable_grad():
            value = _one_number(self.loss(model))
            first = torch.autograd.grad(value, list(weights.values()), create_graph=True, materialize_grads=True)
            flow = sum((g * g.detach()).sum() for g in first)
            assert isinstance(flow, Tensor)
            second = torch.autograd.grad(flow, list(weights.values()), materialize_grads=True)
        return {n: (w.detach() * h).detach() for (n, w), h in zip(weights.items(), second, strict=True)}


class Movement:
    """-sum over the steps of w dL/dw: weights that training moves away from zero (Sanh et al. 2020).

    It watches every backward pass from `attach` on; an instance serves one plan.
    """

    watches = "always"

    def __init__(self) -> None:
        self._sum: Tensors = {}

    def observe(self, view: View) -> None:
        """Take the gradients of one step in."""
        for name, gradient in view.gradients.items():
            moved = -gradient * view.weights[name]
            self._sum[name] = moved if name not in self._sum else self._sum[name] + moved

    def __call__(self, view: View) -> Tensors:
        missing = [name for name in view.targets if name not in self._sum]
        if missing:
            raise InputError(f"Movement has seen no gradient of {missing[0]!r} yet: begin the schedule later")
        return {name: self._sum[name] for name in view.targets}


def _gradients(view: View, loss: Loss) -> Tensors:
    model, weights = view.plain()
    with torch.enable_grad():
        value = _one_number(loss(model))
        found = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    return dict(zip(weights, found, strict=True))


def _one_number(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise InputError("a loss is a function of a model that returns one differentiable number")
    return value
