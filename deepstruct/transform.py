"""From models to networkx graphs: thin faces on `deepstruct.extract`.

Functors forget the weights: what comes out is a LabeledDAG, whose vertices are the nodes of the extracted
graph, in its order. Layers are longest paths, so that those of a plain sequence of layers are its layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.graph import LabeledDAG
from deepstruct.graph.layers import longest_paths


class ForgetfulFunctor:
    """From modules to graphs; subclasses say from which, and how."""

    def transform(self, model: nn.Module) -> LabeledDAG:
        raise NotImplementedError(f"{type(self).__name__} has no transform: use one of its subclasses")

    def applies(self, model: nn.Module) -> bool:
        """Whether `transform` takes this model."""
        return True


class GraphTransform(ForgetfulFunctor):
    """The graph of any model, at one of the four orders.

    Args:
        random_input: an example input, with its batch axis.
        order: "zeroth" (units), "first" (channels), "second" (layers) or "third" (cells).
        threshold: a weight is an edge when its magnitude is above this.
        options: further arguments of `deepstruct.extract`.
    """

    def __init__(
        self, random_input: torch.Tensor, order: str = "zeroth", threshold: float = 0.0, **options: Any
    ) -> None:
        self.random_input = random_input
        self.order, self.threshold, self.options = order, threshold, options

    @property
    def random_input(self) -> torch.Tensor:
        return self._random_input

    @random_input.setter
    def random_input(self, random_input: torch.Tensor) -> None:
        if not isinstance(random_input, torch.Tensor):
            raise InputError(f"random_input is of type {type(random_input).__name__}, expected a tensor")
        self._random_input = random_input

    def transform(self, model: nn.Module) -> LabeledDAG:
        """Raises what `deepstruct.extract` raises. The model is left as it was."""
        from deepstruct.api import extract

        graph = extract(model, self.random_input, order=self.order, threshold=self.threshold, **self.options)
        edges = graph.edge_list()
        layers = longest_paths(edges.num_nodes, edges.source, edges.target)
        result = LabeledDAG()
        for node, layer in enumerate(layers):
            result._put(node, layer)
        result._fill(edges.num_nodes, edges.source, edges.target)
        return result


class LinearLayerFunctor(ForgetfulFunctor):
    """The graph of one linear layer: inputs in layer 0, outputs in layer 1, existing connections as edges.

    Args:
        threshold: a weight is an edge when its magnitude is at least this. Needed for layers without a mask;
            for masked ones, None goes by the mask alone. Neither weight nor mask is changed.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self._threshold = threshold

    def applies(self, model: nn.Module) -> bool:
        return isinstance(model, nn.Linear)

    def transform(self, model: nn.Module) -> LabeledDAG:
        from deepstruct.sparse import MaskedLinearLayer

        if not isinstance(model, nn.Linear):
            raise InputError(f"LinearLayerFunctor takes a linear layer, not {type(model).__name__}")
        return self.transform_masked(model) if isinstance(model, MaskedLinearLayer) else self.transform_linear(model)

    def transform_masked(self, model: Any) -> LabeledDAG:
        """Of a MaskedLinearLayer."""
        mask = model.mask.detach()
        if self._threshold is not None:
            mask = mask & (model.weight.detach().abs() >= self._threshold)
        return self.transform_mask(mask)

    def transform_linear(self, model: nn.Linear) -> LabeledDAG:
        """Of a layer without a mask."""
        if self._threshold is None:
            raise InputError("a linear layer without a mask needs a threshold: LinearLayerFunctor(threshold=1e-3)")
        return self.transform_mask(model.weight.detach().abs() >= self._threshold)

    def transform_mask(self, mask: torch.Tensor) -> LabeledDAG:
        """Of a boolean mask (out, in)."""
        if mask.dtype != torch.bool or mask.dim() != 2:
            kind = f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise InputError(f"a mask is boolean with two axes (out, in), got {kind}")
        rows, cols = mask.shape
        graph = LabeledDAG()
        for layer, count in ((0, cols), (1, rows)):
            if count:
                graph.add_vertices(count, layer)
        target, source = (t.cpu().numpy() for t in mask.nonzero(as_tuple=True))
        graph._fill(rows + cols, source, target + cols)
        return graph


class Conv2dLayerFunctor(ForgetfulFunctor):
    """The graph of one 2-d convolution on an image of a given size: an edge per tap on a real pixel.

    Vertices are (channel, row, column) in row-major order, those of the input first.

    Args:
        input_width, input_height: of the image.
        threshold: a kernel weight is an edge when its magnitude is above this; None is 0.
    """

    def __init__(self, input_width: int = 0, input_height: int = 0, threshold: float | None = None) -> None:
        self._width, self._height, self._threshold = input_width, input_height, threshold

    @property
    def width(self) -> int:
        return self._width

    @width.setter
    def width(self, width: int) -> None:
        self._width = _size(width, "width")

    @property
    def height(self) -> int:
        return self._height

    @height.setter
    def height(self, height: int) -> None:
        self._height = _size(height, "height")

    def applies(self, model: nn.Module) -> bool:
        return isinstance(model, nn.Conv2d)

    def transform(self, model: nn.Module) -> LabeledDAG:
        if not isinstance(model, nn.Conv2d):
            raise InputError(f"Conv2dLayerFunctor takes a Conv2d, not {type(model).__name__}")
        shape = (1, model.in_channels, _size(self._height, "input_height"), _size(self._width, "input_width"))
        image = model.weight.new_zeros(shape)
        return GraphTransform(image, threshold=self._threshold or 0.0).transform(model)


def _size(value: int, name: str) -> int:
    if value < 1:
        raise InputError(f"{name}={value}: write the size of the image, at least 1")
    return value
