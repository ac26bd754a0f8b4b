"""Ready-made models: those of `deepstruct.sparse`, and networks of relational graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deepstruct.graph import message_exchange_mask
from deepstruct.sparse import DeepCellDAN, MaskableModel, MaskedDeepDAN, MaskedDeepFFN
from deepstruct.sparse.masked import MaskedLinearLayer

__all__ = ["DeepCellDAN", "MaskableModel", "MaskedDeepDAN", "MaskedDeepFFN", "message_exchange_mlp"]


def message_exchange_mlp(
    size_input: int | Sequence[int],
    size_output: int | Sequence[int],
    hidden_layers: Sequence[int],
    graph: Any,
    use_layer_norm: bool = False,
) -> MaskedDeepFFN:
    """A feed-forward network in which every step between hidden layers is a round of message exchange.

    Units of each hidden layer are dealt to the vertices of an undirected graph; a unit reads the units of its
    own vertex and of that vertex's neighbours (You et al., 2020). The first and the last layer are dense.
    Raises InputError where a layer has fewer units than the graph has vertices.
    """
    model = MaskedDeepFFN(size_input, size_output, hidden_layers, use_layer_norm)
    for layer in model._layers_hidden:
        if isinstance(layer, MaskedLinearLayer):
            mask = message_exchange_mask(graph, layer.out_features, layer.in_features)
            with torch.no_grad():
                layer.mask.copy_(torch.from_numpy(mask))
    return model
