"""Paths through each channel: what the loss of a channel, feature or head would cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import flow
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.structure.orders.labelling import Labelling
from deepstruct.structure.orders.labels import channel_labels


def _labels(view: OperatorView) -> Labelling:
    return once(view, "channel labels", lambda: channel_labels(view.graph))


def _by_channel(view: OperatorView) -> dict[str, np.ndarray]:
    """Per layer the sum of the shares of paths through the units of each channel, in the order of the channels."""

    def compute() -> dict[str, np.ndarray]:
        view.need_dag()
        view.need_explicit_units("the share of paths through a channel")
        shares, labels = flow.path_shares(view.graph), _labels(view)
        out = {}
        for space in view.graph.spaces:
            node = view.graph.is_node[space.slots]
            if not bool(node.any()):
                continue
            here = labels.parts[space.index].reshape(-1)[node]
            channels, place = torch.unique(here, return_inverse=True)
            sums = torch.zeros(len(channels), dtype=torch.float64).index_add_(0, place, shares[space.slots][node])
            out[space.name] = sums.numpy()
        return out

    return once(view, "path shares of channels", compute)


def _per_layer(summary: Callable[[np.ndarray], Any]) -> Callable[[OperatorView], dict[str, Any]]:
    return lambda view: {name: summary(shares) for name, shares in _by_channel(view).items()}


def _effective(shares: np.ndarray) -> float:
    """exp of the entropy of the distribution over channels: how many channels of equal share would be as even."""
    total = shares.sum()
    if total == 0:
        return 0.0
    share = shares[shares > 0] / total
    return math.exp(-float((share * np.log(share)).sum()))


def _nodes(view: OperatorView) -> np.ndarray:
    shares, labels = _by_channel(view), _labels(view)
    slots = torch.zeros(view.graph.num_slots, dtype=torch.float64)
    for space in view.graph.spaces:
        if space.name in shares:
            node = view.graph.is_node[space.slots]
            _, place = torch.unique(labels.parts[space.index].reshape(-1)[node], return_inverse=True)
            slots[space.slots][node] = torch.from_numpy(shares[space.name])[place]
    return view.nodes(slots)


def _largest(view: OperatorView) -> float:
    values = _nodes(view)[view.is_hidden]
    if len(values) == 0:
        raise MetricError("the graph has no hidden nodes")
    return float(values.max())


_SHARE = (
    "the path_centrality of a channel is the sum of those of its units, which is the share of the input-output paths "
    "that run through the channel (and would be lost with it) where no path meets two of its units"
)
_SOURCE = "Pham et al. 2023 (effective paths)"


def _metric(name: str, compute: Callable[[OperatorView], Any], definition: str, scope: Any = "layer") -> Metric:
    return Metric(
        name, "operator", compute, scope=scope, definition=definition, source=_SOURCE, orders=("zeroth",),
        requires=("dag",), default=False,
    )  # fmt: skip


METRICS: list[Metric] = [
    _metric("channel_path_centrality", _nodes, f"path_centrality of the node's channel: {_SHARE}.", "node"),
    _metric("channel_path_centrality_max", _largest,
            f"Largest channel_path_centrality of a hidden node (neither input nor output): {_SHARE}.", "graph"),
    _metric("layer_channel_path_centrality_max", _per_layer(lambda shares: float(shares.max())),
            f"Largest path_centrality of a channel of the layer: {_SHARE}."),
    _metric("layer_channel_path_centrality_min", _per_layer(lambda shares: float(shares.min())),
            f"Smallest path_centrality of a channel of the layer: {_SHARE}."),
    _metric("layer_channel_path_centralities", _per_layer(lambda shares: json.dumps(shares.tolist())),
            f"path_centrality of every channel of the layer, in order, as a JSON array: {_SHARE}."),
    _metric("layer_effective_channels", _per_layer(_effective),
            "exp of the entropy of the distribution of the input-output paths over the layer's channels: the number of "
            "channels that paths use as evenly; 0 where no path runs through the layer."),
]  # fmt: skip
