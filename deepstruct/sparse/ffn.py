"""Deep feed-forward networks of masked layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.sparse.graphs import ROLES, assemble, block_of, fill_layer, read_graph
from deepstruct.sparse.maskable import MaskableModel, flat_input, flat_size
from deepstruct.sparse.masked import MaskedLinearLayer

if TYPE_CHECKING:
    from deepstruct.graph import CachedLayeredGraph


class MaskedDeepFFN(MaskableModel):
    """Masked linear layers one after the other, relu between them.

    Args:
        size_input: number of features, or the shape of a sample, which is made flat.
        size_output: number of outputs.
        hidden_layers: number of units in each hidden layer; at least one layer.
        use_layer_norm: layer norm before the relu of every hidden layer but the first.
    """

    def __init__(
        self,
        size_input: int | Sequence[int],
        size_output: int | Sequence[int],
        hidden_layers: Sequence[int],
        use_layer_norm: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = [flat_size(n, "hidden_layers") for n in hidden_layers]
        if not sizes:
            raise InputError("hidden_layers is empty: name the size of at least one hidden layer")
        self.size_input, self.size_output = flat_size(size_input, "size_input"), flat_size(size_output, "size_output")
        self.use_layer_norm = bool(use_layer_norm)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self._activation = nn.ReLU()
        self._layer_first = MaskedLinearLayer(self.size_input, sizes[0], **options)
        self._layers_hidden = nn.ModuleList()
        for below, size in pairwise(sizes):
            self._layers_hidden.append(MaskedLinearLayer(below, size, **options))
            if use_layer_norm:
                self._layers_hidden.append(nn.LayerNorm(size, **options))
            self._layers_hidden.append(self._activation)
        self._layer_out = MaskedLinearLayer(sizes[-1], self.size_output, **options)

    def forward(self, input: Tensor) -> Tensor:
        """(batch, ...) to (batch, size_output)."""
        out = self._activation(self._layer_first(flat_input(input, self.size_input)))
        for layer in self._layers_hidden:
            out = layer(out)
        return self._layer_out(out)

    def example_input(self) -> Tensor:
        """One sample that fits, of zeros."""
        return self._layer_first.weight.new_zeros(1, self.size_input)

    @property
    def hidden_sizes(self) -> list[int]:
        return [layer.out_features for layer in self._linear()][:-1]

    def _linear(self) -> list[MaskedLinearLayer]:
        hidden = [layer for layer in self._layers_hidden if isinstance(layer, MaskedLinearLayer)]
        return [self._layer_first, *hidden, self._layer_out]

    def _ranges(self) -> Iterator[np.ndarray]:
        """Nodes of the inputs, of each hidden layer, and of the outputs."""
        start = 0
        for size in (self.size_input, *self.hidden_sizes, self.size_output):
            yield np.arange(start, start + size)
            start += size

    def generate_structure(self, include_input: bool = False, include_output: bool = False) -> CachedLayeredGraph:
        """The graph of the current masks: hidden units, and inputs and outputs if asked for, numbered in order.

        Units without connections are nodes, too.
        """
        return self._graph(("input",) * include_input + ("hidden",) + ("output",) * include_output, False)

    def to_graph(self, weights: bool = False) -> CachedLayeredGraph:
        """All units, with `role` and `layer` on nodes; `weights` adds bias and weight.

        `from_graph` makes a model of it, with the same outputs if weights are there.
        """
        return self._graph(ROLES, weights, {"model": type(self).__name__, "use_layer_norm": self.use_layer_norm}, True)

    def _graph(
        self, include: tuple[str, ...], weights: bool, attributes: dict[str, Any] | None = None, data: bool = False
    ) -> CachedLayeredGraph:
        ranges, layers = list(self._ranges()), self._linear()
        roles = ["input"] * self.size_input + ["hidden"] * sum(self.hidden_sizes) + ["output"] * self.size_output
        blocks = [block_of(layer, *ends) for layer, ends in zip(layers, pairwise(ranges), strict=True)]
        rows: list[dict[str, Any]] = []
        if data:
            level = np.repeat(np.arange(len(ranges)), [len(r) for r in ranges]).tolist()
            rows = [{"role": role, "layer": depth} for role, depth in zip(roles, level, strict=True)]
        if weights:
            norms = [m for m in self._layers_hidden if isinstance(m, nn.LayerNorm)]
            for k, layer in enumerate(layers, start=1):
                _note(rows, ranges[k], "bias", layer.bias)
                if norms and 1 < k < len(layers):
                    _note(rows, ranges[k], "norm_weight", norms[k - 2].weight)
                    _note(rows, ranges[k], "norm_bias", norms[k - 2].bias)
        return assemble(roles, blocks, include, weights, attributes, rows)

    @classmethod
    def from_graph(cls, graph: Any, **options: Any) -> MaskedDeepFFN:
        """A model of a graph that `to_graph` made, or of its GraphML file; `options` are device and dtype.

        Raises InputError for edges that leave out a layer: those need MaskedDeepDAN.
        """
        read = read_graph(graph)
        try:
            layer = np.array([d["layer"] for d in read.data])
        except KeyError:
            raise InputError("the nodes of this graph have no layer: take model.to_graph()") from None
        if len(read.source) and (np.diff(layer[np.stack([read.source, read.target])], axis=0) != 1).any():
            raise InputError("an edge leaves out a layer, or goes down: MaskedDeepDAN.from_graph takes such graphs")
        groups = [np.flatnonzero(layer == k) for k in np.unique(layer)]
        attributes = getattr(graph, "graph", {})
        norm = bool(attributes.get("use_layer_norm", any("norm_weight" in d for d in read.data)))
        sizes = [len(g) for g in groups]
        model = cls(sizes[0], sizes[-1], sizes[1:-1], norm, **options)
        norms = [m for m in model._layers_hidden if isinstance(m, nn.LayerNorm)]
        for k, module in enumerate(model._linear(), start=1):
            fill_layer(module, read, groups[k - 1], groups[k])
            if read.weight is None:
                continue
            _set(module.bias, read.data, groups[k], "bias")
            if norms and 1 < k < len(sizes) - 1:
                _set(norms[k - 2].weight, read.data, groups[k], "norm_weight")
                _set(norms[k - 2].bias, read.data, groups[k], "norm_bias")
        return model


def _note(rows: list[dict[str, Any]], nodes: np.ndarray, name: str, values: Tensor) -> None:
    for node, value in zip(nodes.tolist(), values.detach().cpu().double().tolist(), strict=True):
        rows[node][name] = value


def _set(parameter: Tensor, data: list[dict[str, Any]], nodes: np.ndarray, name: str) -> None:
    try:
        values = [data[i][name] for i in nodes.tolist()]
    except KeyError:
        raise InputError(f"a node of this graph has no {name!r}: take model.to_graph(weights=True)") from None
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=torch.float64))
