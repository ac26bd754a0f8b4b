"""What can be pruned in a model: one target for each weight, whatever holds its mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deepstruct.errors import InputError
from deepstruct.pruning.gradients import LayerGradient
from deepstruct.pruning.optimizers import align, entries
from deepstruct.pruning.parametrization import mask_parameter, original_of, weight_masks
from deepstruct.sparse.linear import SparseLinear
from deepstruct.sparse.masked import MaskedLayer

Optimizers = Sequence[torch.optim.Optimizer]


class Target:
    """A weight and its mask.

    Attributes:
        name: qualified name of the weight in the plain model ("layers.0.weight"); of tied ones the first.
        modules: the modules that use it.
    """

    def __init__(self, name: str, modules: Sequence[nn.Module]) -> None:
        self.name, self.modules = name, list(modules)

    @property
    def parameter(self) -> nn.Parameter:
        """What optimizers hold."""
        raise NotImplementedError

    @property
    def shape(self) -> torch.Size:
        """Shape of the dense weight."""
        return self.parameter.shape

    @property
    def device(self) -> torch.device:
        return self.parameter.device

    def weight(self) -> Tensor:
        """The dense weight, detached, 0 where it is masked."""
        return torch.where(self.mask(), self.parameter.detach(), 0)

    def mask(self) -> Tensor:
        """Boolean of the dense weight's shape: a copy."""
        raise NotImplementedError

    def watch(self, on: bool) -> None:
        """Start or stop adding up gradients of the dense weight in the backward passes to come."""
        raise NotImplementedError

    def gradient(self) -> Tensor | None:
        """Gradient of the dense weight since `watch`, absent connections included; None before a backward pass."""
        raise NotImplementedError

    def check(self, optimizers: Optimizers, unknown: str) -> None:
        """Raise InputError where a commit would not know what to do with an optimizer's state."""
        entries(optimizers, self.parameter, unknown)

    def commit(self, mask: Tensor, optimizers: Optimizers = (), unknown: str = "raise") -> None:
        """Take a new mask over: weights, gradients and optimizer state by the rule (see `optimizers`)."""
        old = self.mask()
        kept = old & mask
        found = entries(optimizers, self.parameter, unknown)
        self._set(mask)
        with torch.no_grad():
            self.parameter.copy_(torch.where(kept, self.parameter, 0))
            if self.parameter.grad is not None:
                self.parameter.grad = torch.where(kept, self.parameter.grad, 0)
        align(found, self.parameter, kept)

    def _set(self, mask: Tensor) -> None:
        raise NotImplementedError


class MaskBuffer(Target):
    """The mask of masked layers."""

    def __init__(self, name: str, modules: Sequence[MaskedLayer]) -> None:
        super().__init__(name, modules)
        self.layers = list(modules)
        if any(layer._masks_as_params for layer in self.layers):
            raise InputError(f"the mask of {name!r} is being learned (mask_as_params): leave it out with skip=")
        self._gradient = LayerGradient(self.layers, self.shape)

    @property
    def parameter(self) -> nn.Parameter:
        return self.layers[0].weight

    def mask(self) -> Tensor:
        mask = self.layers[0].mask.clone()
        for layer in self.layers[1:]:
            mask |= layer.mask
        return mask

    def watch(self, on: bool) -> None:
        self._gradient.watch(on)

    def gradient(self) -> Tensor | None:
        return self._gradient.seen

    def _set(self, mask: Tensor) -> None:
        for layer in self.layers:
            with torch.no_grad():
                layer._mask.copy_(mask)


class SparseValues(Target):
    """The structure of a SparseLinear."""

    def __init__(self, name: str, layer: SparseLinear) -> None:
        super().__init__(name, [layer])
        self.layer = layer
        self._gradient = LayerGradient([layer], self.shape)

    @property
    def parameter(self) -> nn.Parameter:
        return self.layer.values

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.layer.out_features, self.layer.in_features))

    def weight(self) -> Tensor:
        return self.layer.to_dense().detach()

    def mask(self) -> Tensor:
        return self.layer.mask()

    def watch(self, on: bool) -> None:
        self._gradient.watch(on)

    def gradient(self) -> Tensor | None:
        return self._gradient.seen

    def commit(self, mask: Tensor, optimizers: Optimizers = (), unknown: str = "raise") -> None:
        holding = [o for o in optimizers if any(p is self.parameter for g in o.param_groups for p in g["params"])]
        for state, name in entries(holding, self.parameter, unknown):
            if name in state and state[name].shape != self.parameter.shape:
                state.clear()  # the caller said to reset what has no rule
        at = self.layer.indices().unbind()
        self.layer.update_structure(~mask[at], mask & ~self.layer.mask(), holding)


class Parametrized(Target):
    """A weight of any other module; its mask is put on with the first commit."""

    def __init__(self, name: str, owners: Sequence[tuple[nn.Module, str]]) -> None:
        super().__init__(name, [module for module, _ in owners])
        self.owners = list(owners)
        self._plain: Tensor | None = None

    def _masks(self) -> list[tuple[nn.Module, str, bool]]:
        return [(module, name, parametrize.is_parametrized(module, name)) for module, name in self.owners]

    @property
    def parameter(self) -> nn.Parameter:
        module, name = self.owners[0]
        if parametrize.is_parametrized(module, name):
            return original_of(module, name)
        parameter = module._parameters[name]
        assert parameter is not None
        return parameter

    def mask(self) -> Tensor:
        for module, name, masked in self._masks():
            if masked:
                return dict(weight_masks(module))[name].mask.clone()
        return torch.ones(self.shape, dtype=torch.bool, device=self.device)

    def watch(self, on: bool) -> None:
        self._plain = None
        for module, name, masked in self._masks():
            if masked:
                mask = dict(weight_masks(module))[name]
                mask.watching, mask.seen = on, None

    def gradient(self) -> Tensor | None:
        for module, name, masked in self._masks():
            if masked:
                return dict(weight_masks(module))[name].seen
        grad = self.parameter.grad  # without a mask, the parameter has the whole gradient
        return None if grad is None else grad.detach()

    def _set(self, mask: Tensor) -> None:
        shared = next(
            (dict(weight_masks(module))[name] for module, name, masked in self._masks() if masked), None
        )
        for module, name, masked in self._masks():
            if not masked:
                shared = mask_parameter(module, name, mask if shared is None else shared)
        assert shared is not None
        with torch.no_grad():
            shared.mask.copy_(mask)
