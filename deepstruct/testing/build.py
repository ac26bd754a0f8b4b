"""Graphs for tests, and copies of models whose weights and inputs are generic."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.orders.zeroth import ZerothOrder
from deepstruct.structure.settings import Settings
from deepstruct.trace import trace
from deepstruct.trace.inputs import Arguments, as_arguments, find_example_input
from deepstruct.trace.tree import map_tensors

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph


def build_graph(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> StructureGraph:
    """The zeroth-order graph of a model, with the rules of the plugin host in use.

    `settings` are those of `deepstruct.structure.settings.Settings` (normalization, on_unknown, threshold, ...).
    The whole example batch is read.
    """
    record = trace(model, example_input, example_kwargs=example_kwargs)
    return build_from_trace(record, Settings(**settings))


def build_from_trace(record: OpGraph, settings: Settings) -> StructureGraph:
    """The zeroth-order graph of a trace."""
    from deepstruct.plugin.current import get_host

    return ZerothOrder().build(record, settings, get_host().registry())


def generic_copy(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Arguments]:
    """A deep copy with random weights, and example arguments (args, kwargs) without coincidences.

    Weights keep their zeros and signs (biases do not: a bias is no edge, and one of zero hides edges); their
    magnitudes are drawn from [0.5, 1.5), divided by the root of the fan-in for matrices and kernels. Floating
    inputs that hold zeros or repeated numbers get noise added.
    The model and the input are not modified; the random state of the process is not touched.
    """
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(model, loose_tensors(model))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.dtype.is_floating_point and parameter.numel():
                bias = "bias" in name.rpartition(".")[2] and parameter.dim() == 1
                parameter.copy_(_generic(torch.ones_like(parameter) if bias else parameter, generator))
    if example_input is None and not example_kwargs:
        args, kwargs = find_example_input(model)
    else:
        args, kwargs = as_arguments(() if example_input is None else example_input, example_kwargs)

    def shake(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dtype.is_floating_point or tensor.numel() == 0:
            return tensor
        repeated = tensor.unique().numel() < 0.9 * tensor.numel()
        if not repeated and not bool((tensor == 0).any()):
            return tensor
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return (tensor.detach() + 0.5 * noise).to(tensor.dtype)

    return twin, (
        tuple(map_tensors(a, shake) for a in args),
        {k: map_tensors(a, shake) for k, a in kwargs.items()},
    )


def loose_tensors(model: nn.Module) -> dict[int, Any]:
    """Copies of attributes that deepcopy refuses: weights that a hook computed (pruning, weight norm)."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }


def _generic(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    fan = weight.numel() // weight.shape[0] if weight.dim() > 1 else 1
    size = torch.rand(weight.shape, generator=generator, dtype=torch.float64) + 0.5
    return (weight.detach().sign().to(torch.float64) * size / max(fan, 1) ** 0.5).to(weight.dtype)
