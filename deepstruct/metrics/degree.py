"""Degree and strength of the nodes of the explicit graph, and their moments."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.metrics.base import Metric
from deepstruct.metrics.table import Compute, entropy, moments, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

MGE = "Cunegatti et al., multipartite graph encoding"
STIER = "Stier 2019"


def in_degree_igraph(view: IgraphView) -> npt.NDArray[np.int64]:
    return view.in_degree


def out_degree_igraph(view: IgraphView) -> npt.NDArray[np.int64]:
    return view.out_degree


def in_degree_networkx(view: NetworkxView) -> npt.NDArray[np.int64]:
    return _by_id(view, view.multigraph.in_degree(), np.int64)


def out_degree_networkx(view: NetworkxView) -> npt.NDArray[np.int64]:
    return _by_id(view, view.multigraph.out_degree(), np.int64)


def strength_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    return view.once("strength", lambda: _strength(view))


def _strength(view: IgraphView) -> npt.NDArray[np.float64]:
    size = np.where(view.weighted, np.abs(view.edges.weight), 0.0)
    out = np.bincount(view.edges.source, size, view.num_nodes)
    into = np.bincount(view.edges.target, size, view.num_nodes)
    return (out + into).astype(np.float64)  # without any edge, bincount gives integers


def strength_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    total = dict.fromkeys(range(view.num_nodes), 0.0)
    for u, v, weight in view.multigraph.edges(data="weight", default=0.0):
        total[u] += abs(weight)
        total[v] += abs(weight)
    return _by_id(view, total.items(), np.float64)


def _by_id(view: NetworkxView, pairs: Any, dtype: Any) -> npt.NDArray[Any]:
    values = np.zeros(view.num_nodes, dtype)
    for node, value in pairs:
        values[node] = value
    return values


def _mean(view: Any, vector: npt.NDArray[Any]) -> float:
    return float(moments(view, vector).mean())


def _maximum(view: Any, vector: npt.NDArray[Any]) -> int | float:
    view.need_nodes()
    top: int | float = vector.max().item()
    return top


def _variance(view: Any, vector: npt.NDArray[Any]) -> float:
    return float(moments(view, vector).var())


def _entropy(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return entropy(np.unique(vector, return_counts=True)[1])


def _exact_mean(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return float(statistics.mean(vector.tolist()))


def _exact_variance(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return float(statistics.pvariance(vector.tolist()))


def _counted_entropy(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return entropy(np.array(list(Counter(vector.tolist()).values())))


_SUMMARIES = {
    "mean": ("Mean of {}.", _mean, _exact_mean),
    "max": ("Largest {}.", _maximum, _maximum),
    "variance": ("Population variance of {}.", _variance, _exact_variance),
    "entropy": ("Shannon entropy, in nats, of the distribution of {}.", _entropy, _counted_entropy),
}


def _summary(summarize: Callable[[Any, Any], Any], vector: Compute) -> Compute:
    return lambda view: summarize(view, vector(view))


def _family(
    name: str, noun: str, source: str, parts: tuple[str, ...], igraph: Compute, networkx: Compute
) -> list[Metric]:
    """The node-scope vector and its summaries over all nodes, inputs and outputs included."""
    definition = f"{noun[0].upper()}{noun[1:]}."
    rows = on_both(
        name, definition, source=source, scope="node", default=False, igraph=igraph, networkx=networkx
    )
    for part in parts:
        text, fast, plain = _SUMMARIES[part]
        rows += on_both(
            f"{name}_{part}",
            text.format(f"{noun}, over all nodes"),
            source=source,
            igraph=_summary(fast, igraph),
            networkx=_summary(plain, networkx),
        )
    return rows


METRICS = [
    *_family(
        "in_degree",
        "in-degree (edges into the node, parallel ones counted)",
        f"{MGE}; {STIER}",
        ("mean", "max", "variance", "entropy"),
        in_degree_igraph,
        in_degree_networkx,
    ),
    *_family(
        "out_degree",
        "out-degree (edges out of the node, parallel ones counted)",
        f"{MGE}; {STIER}",
        ("mean", "max", "variance", "entropy"),
        out_degree_igraph,
        out_degree_networkx,
    ),
    *_family(
        "strength",
        "strength (sum of |weight| over the weight edges into and out of the node)",
        MGE,
        ("mean", "max", "variance"),
        strength_igraph,
        strength_networkx,
    ),
]
