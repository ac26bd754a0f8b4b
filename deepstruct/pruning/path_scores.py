"""Scores from the graph: what flows through a connection, or would."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import sweep
from deepstruct.errors import MetricError
from deepstruct.pruning.protocols import Tensors
from deepstruct.pruning.view import View
from deepstruct.structure.graph import StructureGraph

_TINY = 1e-300


class SynFlow:
    """|w| dR/d|w|, R the sum over all paths from inputs to outputs of the product of |w| (Tanaka et al. 2020).

    In float64, with all inputs 1, structural edges 1, without biases. Prune in many steps (`prune(rounds=100)`): the
    score of a layer is the same for all layers, so that none is emptied while others have weights to give.
    """

    def __call__(self, view: View) -> Tensors:
        through = _through(view, "abs")
        return {name: flow * view.weights[name].abs().to(flow) for name, flow in _placed(view, through).items()}


class PathCentrality:
    """The number of paths from inputs to outputs through a connection, or that an absent one would open.

    With `weighted`, each path counts the product of |w| of its other connections: dR/d|w| of SynFlow.
    """

    def __init__(self, weighted: bool = False) -> None:
        self.weighted = weighted

    def __call__(self, view: View) -> Tensors:
        return _placed(view, _through(view, "abs" if self.weighted else "pattern"))


class GraphMetric:
    """A node or layer metric of the catalogue as a score of connections.

    A connection u -> v has the product (`join="product"`) or the sum of the values of u and v at zeroth order, in the
    graph of the present masks; a shared weight has the sum over its connections. Of a layer metric, v's layer counts.

    Args:
        metric: a name of the catalogue (docs/metrics.md), of node or layer scope.
        sign: -1 to prefer small values (growth where degrees are low, for one).

    Raises MetricError for an unknown metric, one of graph scope, or one that the graph cannot be measured with.
    """

    def __init__(
        self, metric: str, join: Literal["product", "sum"] = "product", *, sign: float = 1.0, analyzer: str = "auto"
    ) -> None:
        if join not in ("product", "sum"):
            raise MetricError(f"join={join!r}: choose 'product' or 'sum'")
        self.metric, self.join, self.sign, self.analyzer = metric, join, sign, analyzer

    def __call__(self, view: View) -> Tensors:
        from deepstruct.analyzers.select import analyze_graph
        from deepstruct.plugin.current import get_host

        view = view.explicit()
        # what is there but zero (it has just grown) is an edge, too
        graph = view.network.graph(
            {n: torch.where(view.masks[n] & (w == 0), _TINY, w.to(torch.float64)) for n, w in view.weights.items()}
        )
        values, skipped = analyze_graph(graph, [self.metric], self.analyzer, registry=get_host().registry())
        if not values:
            raise MetricError(f"{self.metric!r} cannot score connections: {skipped[0].reason}")
        (row,) = values
        if row.scope == "graph":
            raise MetricError(f"{self.metric!r} is one number for the whole graph: it cannot tell connections apart")
        ones = torch.ones(graph.num_slots, dtype=torch.float64)
        spread = view.network.spread
        if row.scope == "layer":
            found = spread(ones, _layers(graph, row.value))
        else:
            at = _slots(graph, torch.as_tensor(row.value, dtype=torch.float64))
            if self.join == "product":
                found = spread(at, at)
            else:
                source, target = spread(at, ones), spread(ones, at)
                found = {name: source[name] + target[name] for name in source}
        return _placed(view, {name: value * self.sign for name, value in found.items()})


def _through(view: View, mode: Literal["abs", "pattern"]) -> Tensors:
    weights = view.weights if mode == "abs" else view.masks
    graph = view.network.graph(weights)
    semiring = Counting(mode=mode)
    ahead = sweep(graph, graph.is_source, semiring)
    back = sweep(graph, graph.is_output, semiring, transpose=True)
    return view.network.spread(ahead, back)


def _placed(view: View, found: Tensors) -> Tensors:
    return {name: value.to(view.targets[name].device) for name, value in found.items()}


def _slots(graph: StructureGraph, nodes: Tensor) -> Tensor:
    """Values over nodes as values over slots; what is part of a sum has the value of the sum."""
    slots = torch.zeros(graph.num_slots, dtype=torch.float64)
    slots[graph.is_node] = nodes
    return slots if graph.parent is None else slots[graph.parent]


def _layers(graph: StructureGraph, values: dict[str, float]) -> Tensor:
    slots = torch.zeros(graph.num_slots, dtype=torch.float64)
    for space in graph.spaces:
        slots[space.slots] = float(values.get(space.name, 0.0))
    return slots
