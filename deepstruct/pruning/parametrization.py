"""Masks on weights of any module: a parametrization that hides what is masked, and how it is put on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from deepstruct.errors import InputError
from deepstruct.sparse.checks import check_mask


class WeightMask(nn.Module):
    """weight -> weight where `mask` is true, 0 elsewhere; masked weights have no gradient.

    With `watching`, the gradients of the masked weight, those of absent connections included, are added up in `seen`.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.watching = False
        self.seen: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, of the weight's shape."""
        # Not a product: an infinite weight times 0 would be NaN.
        out = torch.where(self.mask, weight, torch.zeros((), dtype=weight.dtype, device=weight.device))
        if self.watching and out.requires_grad:
            out.register_hook(self._see)
        return out

    def _see(self, grad: Tensor) -> None:
        grad = grad.detach()
        self.seen = grad.clone() if self.seen is None else self.seen + grad


class FreshWeights:
    """A hook before the forward pass of recurrent layers, which otherwise keep using weights they listed once."""

    def __call__(self, module: Any, args: Any) -> None:
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def mask_parameter(module: nn.Module, name: str, mask: Tensor | WeightMask) -> WeightMask:
    """Put a mask on a parameter of a module; the Parameter object stays, its key in the state dict changes.

    Args:
        mask: boolean of the parameter's shape; or a WeightMask that another module has, for tied weights.

    Raises InputError where the parameter does not exist, has another shape or is parametrized already.
    """
    if parametrize.is_parametrized(module, name):
        raise InputError(f"{type(module).__name__}.{name} is parametrized already: change its mask with masks instead")
    parameter = module._parameters.get(name)
    if parameter is None:
        raise InputError(f"{type(module).__name__} has no parameter {name!r}")
    if not isinstance(mask, WeightMask):
        check_mask(mask, parameter.shape, parameter.device)
        mask = WeightMask(mask.clone())
    module.__dict__.setdefault("_order_of_parameters", list(module._parameters))
    _own_class(module, ())
    parametrize.register_parametrization(module, name, mask, unsafe=True)
    if isinstance(module, nn.RNNBase):
        type(module).__deepcopy__ = _copy_recurrent  # type: ignore[attr-defined]
    if isinstance(module, nn.RNNBase) and not any(
        isinstance(hook, FreshWeights) for hook in module._forward_pre_hooks.values()
    ):
        module.register_forward_pre_hook(FreshWeights())
    return mask


def weight_masks(module: nn.Module) -> Iterator[tuple[str, WeightMask]]:
    """(name of the parameter, its mask) of the masks that sit on one module itself."""
    if not parametrize.is_parametrized(module):
        return
    for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
        if len(chain) == 1 and isinstance(chain[0], WeightMask):
            yield name, chain[0]


def original_of(module: nn.Module, name: str) -> nn.Parameter:
    """The Parameter behind a masked weight."""
    parameter: nn.Parameter = module.parametrizations[name].original  # type: ignore[union-attr, index]
    return parameter


def _copy_recurrent(module: Any, memo: dict[int, Any]) -> Any:
    """A deep copy without the weights of the last forward pass, which are results of a graph and refuse copies."""
    if id(module) in memo:
        return memo[id(module)]
    module._flat_weights = [None] * len(module._flat_weights_names)  # the next forward pass makes them anew
    replica = memo[id(module)] = module.__new__(type(module))
    replica.__dict__ = copy.deepcopy(module.__dict__, memo)
    return replica


def _own_class(module: nn.Module, without: tuple[str, ...]) -> None:
    """Give a parametrized module a class that no other has: torch makes one, but a deep copy shares it.

    Weights are properties of that class, so that what one module gains or loses the other would, too.
    """
    if not parametrize.is_parametrized(module):
        return
    old = type(module)
    inherited = {"__dict__", "__weakref__", *without}
    module.__class__ = type(old.__name__, old.__bases__, {k: v for k, v in vars(old).items() if k not in inherited})


def unmask_parameter(module: nn.Module, name: str) -> None:
    """Take a mask off: the masked weights become zeros of a plain parameter, which stays the same object."""
    mask = dict(weight_masks(module))[name]
    original = original_of(module, name)
    with torch.no_grad():
        original.copy_(torch.where(mask.mask, original, 0))
    chains: Any = module.parametrizations
    del chains[name]
    if len(chains) == 0:
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
    else:
        _own_class(module, (name,))
    module._parameters[name] = original
    order = module.__dict__["_order_of_parameters"]
    for key in sorted(module._parameters, key=lambda k: order.index(k) if k in order else len(order)):
        module._parameters[key] = module._parameters.pop(key)
    if isinstance(module, nn.RNNBase):
        if not parametrize.is_parametrized(module):
            for number, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, FreshWeights):
                    del module._forward_pre_hooks[number]
        module._flat_weights = [getattr(module, n) for n in module._flat_weights_names]
