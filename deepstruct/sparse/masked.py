"""Layers with a dense weight and a boolean mask of the same shape; the mask may change at any time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.sparse.checks import check_backend, check_finite, check_mask
from deepstruct.sparse.functional import masked_linear


class MaskableModule(nn.Module):
    """A module whose masked layers, at any depth, are masked and re-masked together."""

    def apply_mask(self) -> None:
        """Set every masked weight to zero, for good."""
        for layer in maskable_layers(self):
            layer.apply_mask()

    def recompute_mask(self, theta: float = 0.0001) -> None:
        """Mask every weight whose magnitude is below `theta`."""
        for layer in maskable_layers(self):
            layer.recompute_mask(theta)


class MaskedLayer(MaskableModule):
    """The mask of a layer with a `weight`: kept as buffer `_mask`, or learned as parameter `_mask`.

    With `mask_as_params`, `_mask` has the weight's shape and two scores per weight, absent and present; the
    larger one decides. The forward pass sees that decision, the backward pass the softmax of the scores
    (a straight-through estimate), so that the optimizer can move it.
    """

    weight: nn.Parameter
    _mask: Tensor

    def _init_mask(self, keep_layer_input: bool, mask_as_params: bool, backend: str) -> None:
        self._masks_as_params = bool(mask_as_params)
        self._saliency: Tensor | None = None
        self.keep_layer_input = keep_layer_input
        self.layer_input: Tensor | None = None
        self.backend = check_backend(backend)
        shape, device = self.weight.shape, self.weight.device
        if mask_as_params:
            self._mask = nn.Parameter(torch.empty(*shape, 2, dtype=self.weight.dtype, device=device))
            self.mask = torch.ones(shape, dtype=torch.bool, device=device)
        else:
            self.register_buffer("_mask", torch.ones(shape, dtype=torch.bool, device=device))

    @property
    def mask(self) -> Tensor:
        """Boolean, of the weight's shape. Without `mask_as_params`, writing into it changes the layer."""
        return self._mask[..., 1] >= self._mask[..., 0] if self._masks_as_params else self._mask

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        check_mask(mask, self.weight.shape, self.weight.device)
        if self._masks_as_params:
            with torch.no_grad():
                self._mask.copy_(_scores(mask))
        else:
            self._mask = mask.detach()

    def __getitem__(self, key: Any) -> Tensor:
        """The mask at an index."""
        return self.mask[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set the mask at an index, to a boolean or a tensor of them."""
        value = torch.as_tensor(value, device=self.weight.device)
        if value.dtype != torch.bool and bool(((value != 0) & (value != 1)).any()):
            raise InputError("a mask holds booleans, or the numbers 0 and 1")
        with torch.no_grad():
            if self._masks_as_params:
                mask = self.mask
                mask[key] = value.bool()
                self._mask.copy_(_scores(mask))
            else:
                self._mask[key] = value.bool()

    @property
    def saliency(self) -> Tensor:
        """What pruning ranks weights by: their magnitude, unless something else was set."""
        return self.weight.detach().abs() if self._saliency is None else self._saliency

    @saliency.setter
    def saliency(self, saliency: Tensor | None) -> None:
        if saliency is not None and saliency.shape != self.weight.shape:
            raise InputError(
                f"the saliency has shape {tuple(saliency.shape)}, the weight {tuple(self.weight.shape)}"
            )
        self._saliency = saliency

    def get_weight_count(self) -> Tensor:
        """How many connections exist, as a tensor of one number."""
        return self.mask.sum()

    def apply_mask(self) -> None:
        """Set the masked weights to zero, for good; the parameter stays the same object."""
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def recompute_mask(self, theta: float = 0.001) -> None:
        """Keep exactly the weights with magnitude >= `theta`, whatever the mask was before.

        To keep what is masked masked, call `apply_mask()` first. Raises InputError on NaN weights.
        """
        check_finite(self.weight.detach(), "the weight")
        mask = self.weight.detach().abs() >= theta
        if self._masks_as_params:
            self.mask = mask
        else:
            with torch.no_grad():
                self._mask.copy_(mask)

    def reset_parameters(self, keep_mask: bool = False) -> None:
        """Draw new weights; unless `keep_mask`, let every connection exist again."""
        super().reset_parameters()  # type: ignore[misc]
        if "_masks_as_params" in self.__dict__ and not keep_mask:
            self.mask = torch.ones(self.weight.shape, dtype=torch.bool, device=self.weight.device)

    def _note_input(self, x: Tensor) -> None:
        if self.keep_layer_input:
            self.layer_input = x.detach()

    def _soft_weight(self) -> Tensor:
        soft = torch.softmax(self._mask, dim=-1)[..., 1]
        return self.weight * (self.mask.to(soft.dtype) + soft - soft.detach())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, backend={self.backend!r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}_mask")
        if stored is not None and not self._masks_as_params and stored.dtype != torch.bool:
            raise InputError(f"{prefix}_mask in the checkpoint is {stored.dtype}, expected torch.bool")
        super()._load_from_state_dict(state_dict, prefix, *args)


class MaskedLinearLayer(MaskedLayer, nn.Linear):  # type: ignore[misc]
    """A linear layer of which only the connections where `mask` is true exist.

    y = x (weight * mask)' + bias, with x (..., in_feature) and y (..., out_features). Where the mask is
    sparse enough, only existing connections are computed: `backend="auto"` decides by what was measured on
    this machine, "dense" and "sparse" insist. Edits of the mask in place are noticed.
    """

    def __init__(
        self,
        in_feature: int,
        out_features: int,
        bias: bool = True,
        keep_layer_input: bool = False,
        mask_as_params: bool = False,
        *,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_feature, out_features, bias, device=device, dtype=dtype)
        self._init_mask(keep_layer_input, mask_as_params, backend)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64 and self.weight.dtype == torch.float32:
            x = x.float()  # NumPy's default dtype is welcome here, as it always was
        self._note_input(x)
        if self._masks_as_params:
            return nn.functional.linear(x, self._soft_weight(), self.bias)
        return masked_linear(x, self.weight, self._mask, self.bias, self.backend)


def maskable_layers(module: nn.Module) -> Iterator[MaskedLayer]:
    """Every masked layer inside a module, at any depth, each once."""
    for _, layer in maskable_layers_with_name(module):
        yield layer


def maskable_layers_with_name(module: nn.Module) -> Iterator[tuple[str, MaskedLayer]]:
    """The same, with their names as in `module.named_modules()`."""
    for name, child in module.named_modules():
        if isinstance(child, MaskedLayer) and child is not module:
            yield name, child


def _scores(mask: Tensor) -> Tensor:
    present = torch.where(mask, 0.9, 0.1)
    return torch.stack([1 - present, present], dim=-1)
