"""Homology metrics of the operator analyzer: neural persistence of stored weights, Betti numbers of the graph."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.persistence import Persistence, neural_persistence, weight_layers
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.metrics.homology import BETA_0, BETA_1, RIECK

_LAYERS = (
    "Layers are stored weights, each once: the complete bipartite graph of its input and output channels, with |w| "
    "over the largest |w| of all layers, absent connections 0; of several taps of a kernel the strongest."
)
_ESSENTIAL = "The class that never dies is paired with 0 and adds 1, as in the authors' code."
_FINITE = "The class that never dies is left out, so that values lie between 0 and 1."


_known: WeakKeyDictionary[OperatorView, dict[str, Persistence]] = WeakKeyDictionary()  # six metrics share one pass


def _persistence(view: OperatorView) -> dict[str, Persistence]:
    found = _known.get(view)
    if found is None:
        layers = weight_layers(view.graph)
        if not layers:
            raise MetricError("the model has no weights")
        found = _known[view] = neural_persistence(layers)
    return found


def _layer(essential: bool, normalized: bool) -> Callable[[OperatorView], dict[str, float]]:
    def compute(view: OperatorView) -> dict[str, float]:
        return {
            name: p.normalized(essential=essential) if normalized else p.total(essential=essential)
            for name, p in _persistence(view).items()
        }

    return compute


def _mean(essential: bool) -> Callable[[OperatorView], float]:
    return lambda view: float(np.mean([p.normalized(essential=essential) for p in _persistence(view).values()]))


def _metrics() -> list[Metric]:
    made = []
    for suffix, essential, text in (("", True, _ESSENTIAL), ("_finite", False, _FINITE)):
        made += [
            Metric(
                f"neural_persistence{suffix}", "operator", _mean(essential), orders=("zeroth",), default=False,
                definition=f"Mean over the layers of layer_neural_persistence{suffix}.", source=RIECK,
            ),
            Metric(
                f"layer_neural_persistence{suffix}", "operator", _layer(essential, True), scope="layer",
                orders=("zeroth",), default=False, source=RIECK,
                definition=f"layer_total_persistence{suffix} over (n - c)^(1/2), with n channels in c components.",
            ),
            Metric(
                f"layer_total_persistence{suffix}", "operator", _layer(essential, False), scope="layer",
                orders=("zeroth",), default=False, source=RIECK,
                definition=f"2-norm of 1 - w over the weights w of a maximum spanning tree. {_LAYERS} {text}",
            ),
        ]  # fmt: skip
    return made


METRICS: list[Metric] = [
    Metric("beta_0", "operator", lambda view: len(view.components), definition=BETA_0),
    Metric(
        "beta_1", "operator", lambda view: view.graph.num_edges - view.graph.num_nodes + len(view.components),
        definition=BETA_1,
    ),
    *_metrics(),
]  # fmt: skip
