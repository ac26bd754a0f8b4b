"""Degree and strength of the nodes of the explicit graph, and their moments."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric
from deepstruct.metrics.table import Compute, entropy, moments, on_both, standardized_moment

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


def degree_igraph(view: IgraphView) -> npt.NDArray[np.int64]:
    return view.in_degree + view.out_degree


def degree_networkx(view: NetworkxView) -> npt.NDArray[np.int64]:
    return _by_id(view, view.multigraph.degree(), np.int64)


def _signed_igraph(end: str) -> Compute:
    def compute(view: IgraphView) -> npt.NDArray[np.float64]:
        weight = np.where(view.weighted, view.edges.weight, 0.0)
        return np.bincount(getattr(view.edges, end), weight, view.num_nodes).astype(np.float64)

    return compute


def _signed_networkx(into: bool) -> Compute:
    def compute(view: NetworkxView) -> npt.NDArray[np.float64]:
        total = dict.fromkeys(range(view.num_nodes), 0.0)
        for u, v, weight in view.multigraph.edges(data="weight", default=0.0):
            total[v if into else u] += weight
        return _by_id(view, total.items(), np.float64)

    return compute


def neighborhood_mean_igraph(view: IgraphView) -> float:
    view.need_nodes()
    return 1 + float(view.out_degree.mean())


def neighborhood_mean_networkx(view: NetworkxView) -> float:
    view.need_nodes()
    return sum(1 + degree for _, degree in view.multigraph.out_degree()) / view.num_nodes


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


def _skewness(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return standardized_moment(*np.unique(vector, return_counts=True), 3)


def _kurtosis(view: Any, vector: npt.NDArray[Any]) -> float:
    view.need_nodes()
    return standardized_moment(*np.unique(vector, return_counts=True), 4)


def _exact_moment(power: int) -> Callable[[Any, npt.NDArray[Any]], float]:
    """In fractions, so that nothing cancels."""

    def compute(view: Any, vector: npt.NDArray[Any]) -> float:
        view.need_nodes()
        values = [Fraction(int(v)) for v in vector.tolist()]
        mean = sum(values, Fraction(0)) / len(values)
        variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)
        if variance == 0:
            raise MetricError("all values are equal: skewness and kurtosis are not defined")
        top = sum(((v - mean) ** power for v in values), Fraction(0)) / len(values)
        if power == 4:
            return float(top / variance**2 - 3)
        return float(top) / float(variance) ** (power / 2)

    return compute


_SUMMARIES = {
    "mean": ("Mean of {}.", _mean, _exact_mean),
    "max": ("Largest {}.", _maximum, _maximum),
    "variance": ("Population variance of {}.", _variance, _exact_variance),
    "skewness": (
        "Population skewness (third standardized moment) of {}; not defined when all are equal.",
        _skewness,
        _exact_moment(3),
    ),
    "kurtosis": (
        "Population excess kurtosis (fourth standardized moment less 3) of {}; not defined when all are equal.",
        _kurtosis,
        _exact_moment(4),
    ),
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
            default=part != "kurtosis",
        )
    return rows


METRICS = [
    *_family(
        "degree",
        "degree (edges into and out of the node, parallel ones counted)",
        STIER,
        ("skewness", "kurtosis"),
        degree_igraph,
        degree_networkx,
    ),
    *_family(
        "in_degree",
        "in-degree (edges into the node, parallel ones counted)",
        f"{MGE}; {STIER}",
        ("mean", "max", "variance", "entropy", "skewness", "kurtosis"),
        in_degree_igraph,
        in_degree_networkx,
    ),
    *_family(
        "out_degree",
        "out-degree (edges out of the node, parallel ones counted)",
        f"{MGE}; {STIER}",
        ("mean", "max", "variance", "entropy", "skewness", "kurtosis"),
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
    *on_both(
        "signed_strength_in",
        "Sum of the signed weights of the weight edges into the node.",
        source="La Malfa et al. 2021, 2022",
        scope="node",
        default=False,
        igraph=_signed_igraph("target"),
        networkx=_signed_networkx(into=True),
    ),
    *on_both(
        "signed_strength_out",
        "Sum of the signed weights of the weight edges out of the node.",
        source="La Malfa et al. 2021, 2022",
        scope="node",
        default=False,
        igraph=_signed_igraph("source"),
        networkx=_signed_networkx(into=False),
    ),
    *on_both(
        "neighborhood_mean",
        "1 + mean out-degree, parallel edges counted: the mean number of nodes within one step, the node "
        "itself included, where no edges are parallel.",
        source=MGE,
        default=False,
        igraph=neighborhood_mean_igraph,
        networkx=neighborhood_mean_networkx,
    ),
]
