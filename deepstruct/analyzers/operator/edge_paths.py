"""Paths through edges: what the loss of an edge, or of a weight with all its edges, would cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from deepstruct.analyzers.operator.layers import _space_of
from deepstruct.analyzers.operator.memo import once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.edge_shares import EdgeShares
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.structure.operators import EdgeOperator


def _shares(view: OperatorView) -> EdgeShares:
    view.need_dag()
    return once(view, "edge path shares", lambda: EdgeShares(view.graph))


def _count(view: OperatorView) -> int:
    count = int(view.context.settings.get("top", 10))
    if count < 1:
        raise MetricError(f"the setting 'top' is {count}: give 1 or more")
    return count


def _sums(view: OperatorView) -> dict[str, float]:
    shares, out = _shares(view), {s.name: 0.0 for s in view.structure.spaces}
    for op in view.structure.operators:
        out[_space_of(view, op).name] += shares.total(op)
    return out


def _largest(view: OperatorView) -> dict[str, float]:
    def compute() -> dict[str, float]:
        view.need_explicit_units("the share of paths through an edge")
        shares = _shares(view)
        out: dict[str, float] = {}
        for op in view.structure.operators:
            name = _space_of(view, op).name
            out[name] = max(out.get(name, 0.0), shares.largest(op))
        return out

    return once(view, "largest edge path shares", compute)


def _largest_of_all(view: OperatorView) -> float:
    return max(_largest(view).values(), default=0.0)


def _top(view: OperatorView) -> str:
    view.need_explicit_units("the share of paths through an edge")
    shares, count, graph = _shares(view), _count(view), view.graph
    found = [(edge, _space_of(view, op).name) for op in graph.operators for edge in shares.top(op, count)]
    found = sorted(found, key=lambda item: -item[0].share)[:count]
    ids = graph.node_ids()

    def node(slot: int) -> int:
        return int(ids[int(graph.sums_of(torch.tensor([slot])))])

    return json.dumps([
        {"layer": name, "source": node(edge.source), "target": node(edge.target), "share": edge.share}
        for edge, name in found
    ])  # fmt: skip


def _by_layer(view: OperatorView) -> dict[str, list[EdgeOperator]]:
    layers: dict[str, list[EdgeOperator]] = {}
    for op in view.structure.operators:
        if op.weighted:
            layers.setdefault(_space_of(view, op).name, []).append(op)
    return layers


def _heaviest(view: OperatorView) -> dict[str, float]:
    shares = _shares(view)
    return {
        name: max((float(shares.by_weight(op).max()) for op in ops if op.source.numel), default=0.0)
        for name, ops in _by_layer(view).items()
    }


def _ranked(view: OperatorView) -> dict[str, str]:
    shares, count, out = _shares(view), _count(view), {}
    for name, ops in _by_layer(view).items():
        rows: list[tuple[float, list[int]]] = []
        for op in ops:
            here = shares.by_weight(op)
            values, places = here.reshape(-1).topk(min(count, here.numel()))
            where = torch.stack(torch.unravel_index(places, here.shape), -1).tolist()
            rows += [(share, index) for share, index in zip(values.tolist(), where, strict=True) if share > 0]
        rows = sorted(rows, key=lambda row: -row[0])[:count]
        out[name] = json.dumps([{"weight": index, "share": share} for share, index in rows])
    return out


def _metric(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    return Metric(
        name, "operator", compute, definition=definition, source="Pham et al. 2023 (effective paths)", default=False,
        requires=("dag",), **options,
    )  # fmt: skip


_EDGE = (
    "the share of an edge u -> v is (paths from inputs to u) x (paths from v to outputs) / (input-output paths), every "
    "path counted once: the share of the paths that would be lost with the edge"
)
_WEIGHT = (
    "the share of a stored weight is the sum of those of its edges, which is the share of the paths that would be lost "
    "with the weight where no path meets two of its edges"
)

METRICS: list[Metric] = [
    _metric("edge_path_centrality_max", _largest_of_all, f"Largest share of the paths through one edge; {_EDGE}."),
    _metric("edge_path_centrality_top", _top,
            "The edges with the largest shares of the paths (setting 'top', 10), as a JSON array of {layer, source, "
            f"target, share}} with node ids; {_EDGE}."),
    _metric("layer_edge_path_centrality", _sums, scope="layer",
            definition="Sum of the shares of the paths through the edges into the layer: how many of them a path has "
                       f"on average; {_EDGE}."),
    _metric("layer_edge_path_centrality_max", _largest, scope="layer",
            definition=f"Largest share of the paths through one edge into the layer; {_EDGE}."),
    _metric("layer_weight_path_centrality_max", _heaviest, scope="layer", orders=("zeroth",),
            definition=f"Largest share of the paths through the edges of one stored weight of the layer; {_WEIGHT}."),
    _metric("layer_weight_path_centrality_top", _ranked, scope="layer", orders=("zeroth",),
            definition="The stored weights of the layer with the largest shares of the paths (setting 'top', 10), as a "
                       "JSON array of {weight, share}, the weight by its index in the tensor as the layer multiplies "
                       f"with it (inputs x outputs for linear layers); {_WEIGHT}."),
]  # fmt: skip
