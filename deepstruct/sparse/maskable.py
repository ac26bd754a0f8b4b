"""What all models made of masked layers share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.sparse.masked import MaskableModule, MaskedLayer, maskable_layers, maskable_layers_with_name


class MaskableModel(MaskableModule):
    """A model whose masked layers are drawn anew together."""

    def reset_parameters(self, keep_mask: bool = False) -> None:
        """Draw all weights anew, those of norms included; unless `keep_mask`, let every connection exist again."""
        for module in self.modules():
            if isinstance(module, MaskableModel):
                continue  # its layers are among the modules
            reset = getattr(module, "reset_parameters", None)
            if isinstance(module, MaskedLayer):
                module.reset_parameters(keep_mask)
            elif callable(reset):
                reset()

    @property
    def maskable_children(self) -> Iterator[MaskedLayer]:
        return maskable_layers(self)

    @property
    def maskable_children_with_name(self) -> Iterator[tuple[str, MaskedLayer]]:
        return maskable_layers_with_name(self)


def flat_size(size: int | Sequence[int], what: str) -> int:
    """Number of features behind a size or a shape; raises InputError unless it is at least 1."""
    try:
        total = math.prod(int(n) for n in size) if isinstance(size, Sequence) else int(size)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}={size!r}: write a number of features or a shape") from error
    if total < 1 or (isinstance(size, Sequence) and min(size, default=1) < 1):
        raise InputError(f"{what}={size!r}: a model has at least one feature there")
    return total


def flat_input(x: Tensor, features: int) -> Tensor:
    """A batch (batch, *shape) as (batch, features); raises InputError for what does not fit."""
    if x.dim() < 2 or math.prod(x.shape[1:]) != features:
        raise InputError(
            f"the input has shape {tuple(x.shape)}, expected (batch, ...) with {features} features in each sample"
        )
    return x.flatten(start_dim=1)


def prunable_layers(network: nn.Module) -> Iterator[MaskedLayer]:
    """Deprecated: `maskable_layers`."""
    warnings.warn("prunable_layers is deprecated: use maskable_layers", DeprecationWarning, stacklevel=2)
    return maskable_layers(network)


def prunable_layers_with_name(network: nn.Module) -> Iterator[tuple[str, MaskedLayer]]:
    """Deprecated: `maskable_layers_with_name`."""
    warnings.warn(
        "prunable_layers_with_name is deprecated: use maskable_layers_with_name", DeprecationWarning, stacklevel=2
    )
    return maskable_layers_with_name(network)
