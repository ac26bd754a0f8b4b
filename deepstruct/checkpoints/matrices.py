"""What the weights of a checkpoint tell without its model: every matrix and kernel as a layer of its own.

Which layer feeds which is not in a state dict. So each weight of two axes or more becomes one layer with inputs of
its own: a matrix as a linear layer, a kernel at a single position. Orders, degrees, densities and spectra of these
layers are those that any model with the weights has per position; paths and other numbers across layers are not.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepstruct.checkpoints.unwrap import fold_masks, strip_prefixes
from deepstruct.errors import CheckpointError
from deepstruct.metrics.base import Metric

NOTE = "without a model: each weight matrix or kernel apart, at one position; nothing across layers"

TOTALS = ("weights", "nonzero_weights", "sparsity")
"""Metrics of the whole graph that hold without knowing which layer feeds which."""

SPECTRA = ("layer_log10_frobenius_norm", "layer_log10_spectral_norm", "layer_stable_rank")
"""Metrics of single matrices that are added to the standard panel here."""

_MOST_AXES = 5


class Matrices(nn.Module):
    """One layer for each weight; `forward` takes an input for each, in their order.

    Modules are named like the parameters without a last ".weight", so that layers carry the names that people know.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._keys: list[str] = []
        self._flat: list[_Layer] = []
        for name, tensor in weights.items():
            layer = _Layer(tensor)
            _place(self, name.removesuffix(".weight"), layer)
            self._keys.append(name)
            self._flat.append(layer)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self._flat, inputs, strict=True))

    def example(self) -> tuple[Tensor, ...]:
        """Inputs for which each layer is used at one position."""
        return tuple(torch.zeros(1, *layer.weight.shape[1:]) for layer in self._flat)

    def named(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the same names and shapes under the names that parameters have here."""
        places = {id(layer): name for name, layer in self.named_modules()}
        return {
            f"{places[id(layer)]}.weight": weights[name]
            for name, layer in zip(self._keys, self._flat, strict=True)
        }


class _Layer(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        axes = self.weight.dim() - 2
        if axes == 0:
            return F.linear(x, self.weight)
        return (F.conv1d, F.conv2d, F.conv3d)[axes - 1](x, self.weight)


def weight_matrices(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of two axes or more, masks of torch.nn.utils.prune multiplied in, prefixes of wrappers taken off.

    Raises CheckpointError when there is none.
    """
    found = {
        name: tensor
        for name, tensor in fold_masks(strip_prefixes(state)).items()
        if 2 <= tensor.dim() <= _MOST_AXES and tensor.is_floating_point() and tensor.numel()
    }
    if not found:
        raise CheckpointError(f"{source} holds no weight matrix: {len(state)} tensors, all with fewer than two axes, "
                              "or not of floating point")  # fmt: skip
    return found


def count_parameters(state: Mapping[str, Tensor]) -> int:
    """Elements of the tensors that look like parameters: floating, no statistics of batch norm, no masks."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    masks = {name for name in state if name.endswith("_mask") and name.removesuffix("_mask") + "_orig" in state}
    return sum(
        tensor.numel()
        for name, tensor in state.items()
        if tensor.is_floating_point() and name.rpartition(".")[2] not in statistics and name not in masks
    )


def holds_without_model(metric: Metric) -> bool:
    """Whether a metric means the same for a layer apart as inside its network, or for the sum of all weights."""
    apart = metric.scope == "layer" and not any(part in metric.name for part in ("effective", "dead", "synflow"))
    return apart or metric.name in TOTALS


def _place(root: nn.Module, path: str, layer: nn.Module) -> None:
    parent, parts = root, path.split(".")
    for part in parts[:-1]:
        child = parent._modules.get(part)
        if child is None:
            if not part or hasattr(parent, part):
                root.add_module(_free(root, path), layer)
                return
            child = nn.Module()
            parent.add_module(part, child)
        parent = child
    last = parts[-1]
    if last and not hasattr(parent, last):
        parent.add_module(last, layer)
    else:
        root.add_module(_free(root, path), layer)


def _free(root: nn.Module, path: str) -> str:
    name = path.replace(".", "_") or "weight"
    while hasattr(root, name):
        name += "_"
    return name
