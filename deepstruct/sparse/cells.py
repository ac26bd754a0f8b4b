"""Networks whose vertices are cells: modules over images, wired by a directed acyclic graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, pad

from deepstruct.errors import InputError
from deepstruct.graph.structure import Order, orient, read_structure
from deepstruct.sparse.maskable import MaskableModel

CellConstructor = Callable[..., nn.Module]


class DeepCellDAN(MaskableModel):
    """One cell per vertex; a cell reads the images of its predecessors, side by side as channels.

    Cells of vertices without predecessors read the input. Images of different sizes are padded with zeros at
    the bottom and on the right. The images of all vertices without successors go through a 1x1 convolution to
    100 channels, batch norm, mean pooling and a linear layer.

    Args:
        num_classes: number of outputs.
        input_channel_size: channels of the input.
        cell_constructor: makes a cell, a module from (batch, in_degree, height, width), or from
            input_channel_size channels where is_input, to one channel. Called with the keyword arguments
            is_input, is_output, in_degree, out_degree, layer and input_channel_size.
        structure: a graph, as for `MaskedDeepDAN`.
        order: orients all edges, see `deepstruct.graph.orient`.
    """

    def __init__(
        self,
        num_classes: int,
        input_channel_size: int,
        cell_constructor: CellConstructor,
        structure: Any,
        *,
        order: Order = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or input_channel_size < 1:
            raise InputError(f"num_classes={num_classes}, input_channel_size={input_channel_size}: both are at least 1")
        if not callable(cell_constructor):
            raise InputError(f"cell_constructor is of type {type(cell_constructor).__name__}, expected a function")
        directed = order is None and hasattr(structure, "pred") and structure.is_directed()
        graph = structure if directed else orient(structure, "nodes" if order is None else order)
        layers = read_structure(graph)
        level = dict(zip(layers.names, layers.layer.tolist(), strict=True))
        # Cells are in the order of the graph's nodes, channels in that of its edges.
        number = {vertex: i for i, vertex in enumerate(graph.nodes)}
        self._reads = [[number[u] for u in graph.pred[v]] for v in graph.nodes]
        self._order = [number[v] for v in layers.names]
        self._outputs = [number[v] for v in graph.nodes if graph.out_degree(v) == 0]
        self.vertices = tuple(graph.nodes)
        self._nodes = nn.ModuleList()
        for vertex in graph.nodes:
            cell = cell_constructor(
                is_input=graph.in_degree(vertex) == 0, is_output=graph.out_degree(vertex) == 0,
                in_degree=graph.in_degree(vertex), out_degree=graph.out_degree(vertex),
                layer=level[vertex], input_channel_size=input_channel_size,
            )  # fmt: skip
            if not isinstance(cell, nn.Module):
                raise InputError(f"cell_constructor returned {type(cell).__name__} for {vertex!r}, expected a module")
            self._nodes.append(cell)
        self._input_channel_size = input_channel_size
        channels = 100
        self._last_convolution = nn.Conv2d(len(self._outputs), channels, (1, 1))
        self._last_batch_norm = nn.BatchNorm2d(channels)
        self._last_fc = nn.Linear(channels, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, input_channel_size, height, width) to (batch, num_classes)."""
        if input.dim() != 4 or input.shape[1] != self._input_channel_size:
            raise InputError(
                f"the input has shape {tuple(input.shape)}, expected (batch, {self._input_channel_size}, height, width)"
            )
        images: dict[int, Tensor] = {}
        for k in self._order:
            read = self._reads[k]
            image = self._nodes[k](_side_by_side([images[i] for i in read]) if read else input)
            if image.dim() != 4 or image.shape[1] != 1:
                raise InputError(
                    f"the cell of vertex {self.vertices[k]!r} gave shape {tuple(image.shape)}, expected one channel: "
                    "(batch, 1, height, width)"
                )
            images[k] = image
        out = self._last_convolution(_side_by_side([images[i] for i in self._outputs]))
        out = adaptive_avg_pool2d(self._last_batch_norm(out), (1, 1))
        return self._last_fc(out.flatten(1))


def _side_by_side(images: list[Tensor]) -> Tensor:
    height, width = max(i.shape[2] for i in images), max(i.shape[3] for i in images)
    return torch.cat([
        i if i.shape[2:] == (height, width) else pad(i, (0, width - i.shape[3], 0, height - i.shape[2]))
        for i in images
    ], 1)  # fmt: skip
