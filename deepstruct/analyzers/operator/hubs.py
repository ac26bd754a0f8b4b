"""HITS within each layer: hubs and authorities as the top singular vectors of its unrolled operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import iteration, once
from deepstruct.analyzers.operator.stored import weighted_operators
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import budget
from deepstruct.engine.bipartite import Unrolled
from deepstruct.engine.lanczos import Apply, extreme
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric


@dataclass(frozen=True)
class _Layer:
    """Scores of the units that a layer reads (hubs) and writes (authorities), each with sum 1."""

    hubs: torch.Tensor
    authorities: torch.Tensor
    hub_slots: torch.Tensor
    authority_slots: torch.Tensor
    residual: float
    converged: bool


def _layers(view: OperatorView) -> dict[str, _Layer]:
    def compute() -> dict[str, _Layer]:
        run, out = iteration(view), {}
        for name, ops in weighted_operators(view).items():
            budget.check()
            layer = Unrolled(view.graph, ops)
            ones = layer.backward(torch.ones(layer.right, dtype=torch.float64)).clamp(max=1)  # hubs have an edge
            found = extreme(_gram(layer), ones, steps=run.steps, tolerance=run.tolerance, vector=True)
            if found.value <= 0 or found.vector is None:
                continue  # no edge
            hubs = found.vector * torch.sign(found.vector.sum())
            authorities = layer.forward(hubs)
            out[name] = _Layer(
                _scaled(hubs), _scaled(authorities), layer.left_slots, layer.right_slots,
                found.residual / found.value, found.converged,
            )  # fmt: skip
        if not out:
            raise MetricError("no layer has weights: there are neither hubs nor authorities")
        return out

    return once(view, "hubs of layers", compute)


def _gram(layer: Unrolled) -> Apply:
    return lambda x: layer.backward(layer.forward(x))


def _scaled(scores: torch.Tensor) -> torch.Tensor:
    """With sum 1; what rounding leaves below 0 is cut."""
    scores = scores.clamp(min=0)
    return scores / scores.sum()


def _measured(view: OperatorView, value: object) -> Measured:
    layers = _layers(view).values()
    return Measured(
        value, exact=False, residual=max(layer.residual for layer in layers),
        converged=all(layer.converged for layer in layers),
    )  # fmt: skip


def _summary(side: str, summary: Callable[[torch.Tensor], float]) -> Callable[[OperatorView], Measured]:
    return lambda view: _measured(
        view, {name: summary(getattr(layer, side)) for name, layer in _layers(view).items()}
    )


def _nodes(side: str, slots: str) -> Callable[[OperatorView], Measured]:
    """Scores of all nodes; a unit that is part of a sum hands its own to the sum."""

    def compute(view: OperatorView) -> Measured:
        total = torch.zeros(view.graph.num_slots, dtype=torch.float64)
        for layer in _layers(view).values():
            where = getattr(layer, slots)
            if view.graph.parent is not None:
                where = view.graph.parent[where]
            total.index_add_(0, where, getattr(layer, side))
        return _measured(view, np.asarray(view.nodes(total)))

    return compute


def _effective(scores: torch.Tensor) -> float:
    return float(1 / scores.square().sum())


_HITS = (
    "HITS within a layer: top singular vectors of its unrolled 0/1 operator, which maps what it reads through weights "
    "(hubs) to its units (authorities), sum 1 each; of several, the part of the all-ones vector on the hubs"
)
_KLEINBERG = "Kleinberg 1999"


def _metric(name: str, compute: Callable[[OperatorView], Measured], definition: str, scope: str = "layer") -> Metric:
    return Metric(
        name, "operator", compute, scope="node" if scope == "node" else "layer", definition=f"{definition} {_HITS}.",
        source=_KLEINBERG, orders=("zeroth", "first"), exact=False, default=False,
    )  # fmt: skip


METRICS: list[Metric] = [
    _metric("hub_in_layers", _nodes("hubs", "hub_slots"),
            "Sum, over the layers that read the node through weights, of its hub score there.", "node"),
    _metric("authority_in_layer", _nodes("authorities", "authority_slots"),
            "Authority score of the node in its layer, 0 where it reads through no weight; a sum takes over that of "
            "its parts.", "node"),
    _metric("layer_hub_max", _summary("hubs", lambda s: float(s.max())), "Largest hub score of a unit that is read."),
    _metric("layer_authority_max", _summary("authorities", lambda s: float(s.max())),
            "Largest authority score of the layer's units."),
    _metric("layer_effective_hubs", _summary("hubs", _effective),
            "1 / sum of the squared hub scores: how many equal hubs would be as spread out."),
    _metric("layer_effective_authorities", _summary("authorities", _effective),
            "1 / sum of the squared authority scores: how many equal authorities would be as spread out."),
]  # fmt: skip
