"""What is there and does nothing, and how much work the rest is: removable edges, collapsed layers, operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from deepstruct.analyzers.operator.layers import _space_of, _weights
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.semiring import Counting
from deepstruct.engine.sweeps import sweep
from deepstruct.errors import MetricError
from deepstruct.metrics import reachability
from deepstruct.metrics.base import Metric
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul

_SHARED = {m.name: m for m in reachability.METRICS}


def _removable(dead: str, met: str) -> Callable[[OperatorView], float]:
    """Share of the edges that meet hidden nodes without edges on the other side."""

    def compute(view: OperatorView) -> float:
        if view.structure.num_edges == 0:
            raise MetricError("the graph has no edges")
        amount = 0.0
        vectors = (view.hidden_slots, getattr(view, f"{dead}_slots"), getattr(view, f"{met}_slots"))
        for _, (hidden, none, edges), counts in view.passed.blocks(*vectors):
            here = hidden & (none == 0)
            weight = edges[here] if counts is None else edges[here] * counts[here]
            amount += float(weight.sum(dtype=torch.float64))
        return amount / view.structure.num_edges

    return compute


def _collapsed(view: OperatorView) -> int:
    """Layers with weights of which no weight edge is effective."""
    alive: dict[str, int] = {}
    for op, count in zip(view.structure.operators, view.effective_edges, strict=True):
        if op.weighted:
            name = _space_of(view, op).name
            alive[name] = alive.get(name, 0) + count
    return sum(count == 0 for count in alive.values())


# -- work


def _operations(op: EdgeOperator) -> int:
    """Multiply-accumulates of an operator, zeros and padding included."""
    assert op.weight is not None
    if isinstance(op, Conv):
        side = op.source if op.transposed else op.target
        return side.shape[0] * math.prod(side.shape[2:]) * op.weight.tensor.numel()
    if isinstance(op, Matmul):
        return op.source.numel * op.outer
    return op.count()


def _layer_macs(view: OperatorView) -> dict[str, int]:
    out: dict[str, int] = {}
    for op in view.graph.operators:
        if op.weighted:
            name = _space_of(view, op).name
            out[name] = out.get(name, 0) + _operations(op)
    return out


def _reuse(view: OperatorView) -> float:
    if view.graph.num_nonzero_weights == 0:
        raise MetricError("the model has no non-zero weights")
    return view.graph.num_weight_edges / view.graph.num_nonzero_weights


def _layer_reuse(view: OperatorView) -> dict[str, float]:
    edges: dict[str, int] = {}
    for op, count in zip(view.graph.operators, view.graph.operator_edges, strict=True):
        if op.weighted:
            name = _space_of(view, op).name
            edges[name] = edges.get(name, 0) + count
    kept = _weights(1)(view)
    return {name: count / kept[name] for name, count in edges.items() if kept[name]}


# -- how the in-edges and out-edges of a layer go together


def _compatibility(view: OperatorView) -> dict[str, float]:
    reads = view.count_where(lambda hidden, into: hidden & (into > 0), view.hidden_slots, view.in_degree_slots)
    both = view.count_where(
        lambda hidden, into, out: hidden & (into > 0) & (out > 0),
        view.hidden_slots, view.in_degree_slots, view.out_degree_slots,
    )  # fmt: skip
    return {name: both[name] / count for name, count in reads.items() if count}


# -- sensitivity


def _kernel_trace(view: OperatorView) -> float:
    """Sum over the weight edges of d R / d w^2, R the sum over all paths of the product of w^2."""
    view.need_dag()
    graph, squares = view.graph, Counting(mode="square")
    outputs = graph.is_output if graph.live is None else graph.is_output & graph.live
    ahead = sweep(graph, graph.is_source, squares)
    back = sweep(graph, outputs, squares, transpose=True)
    total = math.fsum(
        op.flow(squares.read(ahead, op.source), squares.read(back, op.target)) for op in graph.operators if op.weighted
    )
    if not math.isfinite(total):
        raise MetricError("the trace is not finite: it overflows float64, or a weight is not finite")
    return total


def _shared(name: str, compute: Callable[[OperatorView], Any]) -> Metric:
    """A metric that the explicit analyzers offer as well: the same definition, computed by passes."""
    other = _SHARED[name]
    return Metric(name, "operator", compute, definition=other.definition, source=other.source, default=False)


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    return Metric(name, "operator", compute, definition=definition, default=False, **options)


_ZEROTH = ("zeroth",)
_MACS = "through stored weights, of one sample; zero weights and padding taps count, as in common counters of MACs"

METRICS: list[Metric] = [
    _shared("removable_in", _removable("in_degree", "out_degree")),
    _shared("removable_out", _removable("out_degree", "in_degree")),
    _own("collapsed_layers", _collapsed, source="Tanaka et al. 2020 (layer collapse)", orders=("zeroth", "first"),
         definition="Number of layers with weights of which no weight edge is on a path from an input to an output."),
    _own("macs", lambda view: sum(_layer_macs(view).values()), f"Multiply-accumulate operations {_MACS}.",
         orders=_ZEROTH),
    _own("layer_macs", _layer_macs, f"Multiply-accumulate operations of the layer {_MACS}.", scope="layer",
         orders=_ZEROTH),
    _own("weight_reuse", _reuse, "weight_edges / nonzero_weights: how often a stored weight is an edge on average.",
         orders=_ZEROTH),
    _own("layer_weight_reuse", _layer_reuse, "layer_weight_edges / layer_nonzero_weights.", scope="layer",
         orders=_ZEROTH),
    _own("layer_compatibility", _compatibility, scope="layer", source="Hoang et al. ICLR 2023, authors' code",
         definition="Share of the layer's hidden nodes with in-edges that have out-edges too. (The authors take the "
                    "channels of two stored kernels: that is this at the first order.)"),
    _own("path_kernel_trace", _kernel_trace, orders=_ZEROTH, requires=("dag",),
         source="Gebhart et al. 2021 (to be checked)",
         definition="Trace of the path kernel: sum over the weight edges of the derivative of path_norm_squared by the "
                    "squared weight, each position of a shared weight on its own."),
]  # fmt: skip
