"""Strength of neurons on data: weights times the activations that they meet, averaged over a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.memo import once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.signals import incoming_signal
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric


def _signal(view: OperatorView) -> tuple[np.ndarray, str]:
    """The strength of each node, and a note."""

    def compute() -> tuple[np.ndarray, str]:
        view.need_nodes()
        batch = view.context.settings.get("batch")
        if isinstance(batch, torch.Tensor):
            batch = [batch]
        if batch is not None and not (
            isinstance(batch, (list, tuple)) and all(isinstance(part, torch.Tensor) for part in batch)
        ):
            kind = type(batch).__name__
            raise MetricError(f"the setting 'batch' is of type {kind}: give a tensor, or a list of them")
        slots, runs, left = incoming_signal(view.graph, batch)
        note = f"mean over {runs} forward pass{'' if runs == 1 else 'es'}"
        return view.nodes(slots), f"{note}; left out: {', '.join(left)}" if left else note

    return once(view, "activation strength", compute)


def _nodes(view: OperatorView) -> Measured:
    values, note = _signal(view)
    return Measured(values, note=note)


def _by_layer(summary: Callable[[np.ndarray], Any]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        values, note = _signal(view)
        found = {}
        for name, here in view.graph.node_values_by_space(values).items():
            there = here[~np.isnan(here)]
            if len(there):
                found[name] = float(summary(there))
        return Measured(found, note=note)

    return compute


_SIGNAL = (
    "sum over the weight edges into the node of w x, x the activation that the edge reads, averaged over the setting "
    "'batch' (without it, the example input); biases are left out"
)
_SOURCE = "La Malfa et al. 2024 (to be checked)"


def _metric(name: str, compute: Callable[[OperatorView], Any], scope: Any, definition: str) -> Metric:
    return Metric(
        name, "operator", compute, scope=scope, orders=("zeroth",), definition=definition, source=_SOURCE,
        default=False,
    )  # fmt: skip


METRICS: list[Metric] = [
    _metric("activation_strength", _nodes, "node", f"Strength on data: {_SIGNAL}."),
    _metric("layer_activation_strength_mean", _by_layer(np.mean), "layer",
            f"Mean of activation_strength over the layer's nodes: {_SIGNAL}."),
    _metric("layer_activation_fluctuation", _by_layer(np.std), "layer",
            f"Population standard deviation of activation_strength over the layer's nodes: {_SIGNAL}."),
]  # fmt: skip
