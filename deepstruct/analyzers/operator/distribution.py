"""How degrees, strengths and weights are distributed, and how degrees go together across edges."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.layers import _space_of
from deepstruct.analyzers.operator.memo import once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.adjacency import adjacency_action, bilinear, ones_on_nodes
from deepstruct.engine.tail import STEEPEST
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics import assortativity, degree
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.table import standardized_moment
from deepstruct.structure.operators import alive

_SHARED = {m.name: m for file in (degree, assortativity) for m in file.METRICS}
_FITTED = 50_000  # nodes that a power law is fitted to, at most: the fit sorts and scans them often


def _shared(name: str, compute: Callable[[OperatorView], Any], **options: Any) -> Metric:
    """A metric that the explicit analyzers offer as well: the same definition, computed by passes."""
    other = _SHARED[name]
    options.setdefault("default", other.default)
    return Metric(
        name, "operator", compute, scope=other.scope, definition=other.definition, source=other.source, **options
    )


# -- moments of degrees


def _degree(view: OperatorView) -> np.ndarray:
    """int64 per node: edges into and out of it."""
    return view.in_degree + view.out_degree


def _counts(view: OperatorView, vector: str) -> tuple[np.ndarray, np.ndarray]:
    """Distinct degrees, and how many nodes have each."""
    view.need_nodes()
    return view.degree_counts(vector)


def _moment(vector: str, power: int) -> Callable[[OperatorView], float]:
    return lambda view: standardized_moment(*_counts(view, vector), power)


# -- degrees across edges


def _products(view: OperatorView, second: str) -> dict[str, float]:
    """Sums over the edges u -> v of the in-degree, and of the out-degree, of u times a degree of v."""

    def compute() -> dict[str, float]:
        sums = bilinear(view.graph, list(view.degrees.values()), view.degrees[f"{second}_degree"])
        return dict(zip(("in", "out"), sums, strict=True))

    return once(view, f"degrees across {second}", compute)


def _pearson(m: int, sums: tuple[float, float], squares: tuple[float, float], product: float) -> float:
    """Correlation over m pairs from sums of x, of y, of their squares, and of x y."""
    covariance = product / m - sums[0] / m * (sums[1] / m)
    spread = [square / m - (total / m) ** 2 for total, square in zip(sums, squares, strict=True)]
    return covariance / math.sqrt(spread[0] * spread[1])


def _directed(first: str, second: str) -> Callable[[OperatorView], float]:
    """Correlation over the edges u -> v of a degree of u and one of v: a bilinear form x' A y."""

    def compute(view: OperatorView) -> float:
        view.need_nodes()
        # a node is the tail of as many edges as its out-degree says, and the head of as many as its in-degree
        (x, tails), (y, heads) = _ends(view, first, "out"), _ends(view, second, "in")
        assortativity.need_varied(x, y)
        sums = (_weighted(tails, x), _weighted(heads, y))
        squares = (_weighted(tails, x, x), _weighted(heads, y, y))
        return _pearson(view.graph.num_edges, sums, squares, _products(view, second)[first])

    return compute


def _ends(view: OperatorView, degree: str, edges: str) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of the nodes that have edges of a direction, and how many such edges the nodes of each degree have."""
    if degree == edges:
        values, counts = view.degree_counts(f"{degree}_degree")
        there = values > 0
        return values[there], values[there] * counts[there]

    def compute() -> np.ndarray:
        amounts = np.zeros(int(view.degree_counts(f"{degree}_degree")[0][-1]) + 1)
        vectors = (view.degrees[f"{degree}_degree"], view.degrees[f"{edges}_degree"])
        for _, (own, weight), counts in view.graph.blocks(*vectors):
            share = weight.to(torch.float64) if counts is None else weight.to(torch.float64) * counts
            found = np.bincount(own.numpy().astype(np.int64).reshape(-1), share.numpy().reshape(-1))
            amounts[: len(found)] += found
        return amounts

    amounts = once(view, f"{edges}-edges by {degree}-degree", compute)
    values = np.flatnonzero(amounts)
    return values, amounts[values]


def _weighted(weight: np.ndarray, *values: np.ndarray) -> float:
    total = weight.astype(np.float64)
    for value in values:
        total = total * value
    return math.fsum(total.tolist()) if len(total) < 1 << 16 else float(total.sum())


def _undirected(view: OperatorView) -> float:
    """Correlation of total degrees over the edges, each taken both ways."""
    ends, counts = _counts(view, "degree")
    ends, counts = ends[ends > 0], counts[ends > 0]
    assortativity.need_varied(ends, ends)
    total, square = _weighted(counts, ends, ends), _weighted(counts, ends, ends, ends)
    product = 2 * sum(sum(_products(view, second).values()) for second in ("in", "out"))
    return _pearson(2 * view.graph.num_edges, (total, total), (square, square), product)


def _simple_undirected(view: OperatorView) -> float:
    """The same where no two nodes are joined twice; that is known without the graph only when it is acyclic."""
    parallel = view.graph.num_parallel_edges
    if parallel is None:
        raise CapacityError(
            "whether edges are parallel is told from the explicit graph, which is too large here: "
            "multigraph_assortativity counts parallel edges"
        )
    if parallel or not view.graph.is_dag:
        raise CapacityError("the graph has parallel edges or cycles, which passes over operators do not collapse")
    return _undirected(view)


# -- strengths and weights


def _signed_slots(view: OperatorView, out: bool) -> torch.Tensor:
    ones = ones_on_nodes(view.graph)
    return adjacency_action(view.graph, ones, transpose=out, mode="signed", structural=False)


def _signed(out: bool) -> Callable[[OperatorView], np.ndarray]:
    return lambda view: view.nodes(_signed_slots(view, out))


def _fluctuation(view: OperatorView) -> dict[str, float]:
    both = view.nodes(_signed_slots(view, False) + _signed_slots(view, True))
    found = {}
    for name, values in view.graph.node_values_by_space(both).items():
        here = values[~np.isnan(values)]
        if len(here):
            found[name] = float(here.std())
    return found


def _link_weights(part: str) -> Callable[[OperatorView], dict[str, float]]:
    def compute(view: OperatorView) -> dict[str, float]:
        stored: dict[str, dict[Any, torch.Tensor]] = {}
        for op in view.graph.operators:
            if op.weight is None or not op.weighted:
                continue
            tensor = op.weight.tensor
            if tensor.is_meta:
                raise MetricError(
                    "the model's weights have no values (they are on the meta device): load weights into it first"
                )
            key = (op.weight.key, tensor.storage_offset(), tensor.shape, tensor.stride())
            live = tensor[alive(tensor, float(getattr(op, "threshold", 0.0)))]
            stored.setdefault(_space_of(view, op).name, {})[key] = live.detach().to(torch.float64).reshape(-1)
        found = {}
        for name, parts in stored.items():
            values = torch.cat(list(parts.values()))
            if values.numel():
                found[name] = float(values.mean() if part == "mean" else values.var(correction=0))
        return found

    return compute


# -- the tail of the degrees


def _tail(view: OperatorView) -> tuple[Any, str]:
    """A fitted power law, and what it was fitted to."""
    try:
        import powerlaw
    except ImportError:
        raise MetricError("the package powerlaw is not installed: pip install 'deepstruct[powerlaw]'") from None
    view.need_nodes()
    degrees = _degree(view)
    degrees = degrees[degrees > 0]
    if len(np.unique(degrees)) < 2:
        raise MetricError("all degrees are equal: there is no tail to fit a power law to")
    note = f"{len(degrees)} nodes"
    if len(degrees) > _FITTED:
        seed = int(view.context.settings.get("sample_seed", 0))
        note = f"{_FITTED} of {len(degrees)} nodes, drawn with seed {seed}"
        degrees = np.random.default_rng(seed).choice(degrees, _FITTED, replace=False)
    # the package's own range ends at an exponent of 3, and everything steeper would be fitted by 3
    fit = _asked(
        lambda: powerlaw.Fit(degrees, discrete=True, verbose=False, parameter_ranges={"alpha": [1, STEEPEST]})
    )
    _asked(lambda: fit.power_law.alpha)  # a distribution is fitted when it is first read
    return fit, note


def _asked(question: Callable[[], Any]) -> Any:
    """What the package answers; what it cannot fit is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its search for the minimum: the fit itself is what is asked for
        try:
            return question()
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise MetricError(f"the tail of the degrees cannot be fitted: {error}") from error


def _fitted(read: Callable[[Any], float]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        fit, note = _tail(view)
        value = float(read(fit))
        if not math.isfinite(value):
            raise MetricError("the tail of the degrees is too short to fit a power law to")
        return Measured(value, exact=False, note=f"{note}; x_min = {float(fit.power_law.xmin):g}")

    return compute


def _against(other: str) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        fit, note = _tail(view)
        ratio, p = _asked(lambda: fit.distribution_compare("power_law", other, normalized_ratio=True))
        if not math.isfinite(float(ratio)):
            raise MetricError(f"the tail of the degrees is too short to compare a power law with the {other}")
        return Measured(float(ratio), exact=False, note=f"p = {float(p):.3g}; {note}")

    return compute


_TAIL = (
    f"total degree (nodes without edges left out; at most {_FITTED} nodes), discrete maximum-likelihood fit of the "
    "package powerlaw, x_min by the least Kolmogorov-Smirnov distance"
)
_POWER_LAW = "Clauset, Shalizi & Newman 2009; Alstott et al. 2014"
_LA_MALFA = "La Malfa et al. 2021, 2022"


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    options.setdefault("default", False)
    return Metric(name, "operator", compute, definition=definition, **options)


METRICS: list[Metric] = [
    _shared("degree", _degree),
    *(_shared(f"{vector}_skewness", _moment(vector, 3)) for vector in ("in_degree", "out_degree", "degree")),
    *(_shared(f"{vector}_kurtosis", _moment(vector, 4)) for vector in ("in_degree", "out_degree", "degree")),
    _shared("neighborhood_mean", lambda v: 1 + v.structure.num_edges / v.structure.num_nodes, requires=("nonempty",)),
    _shared("assortativity", _simple_undirected),
    _shared("multigraph_assortativity", _undirected),
    _shared("directed_assortativity", _directed("out", "in")),
    *(_shared(f"directed_assortativity_{a}_{b}", _directed(a, b)) for a, b in assortativity.OTHER_PAIRS),
    _shared("signed_strength_in", _signed(False)),
    _shared("signed_strength_out", _signed(True)),
    _own("layer_strength_fluctuation", _fluctuation, scope="layer", source=_LA_MALFA,
         definition="Population standard deviation, over the layer's nodes, of the strength s = sum of the signed "
                    "weights of the edges into and out of the node."),
    _own("layer_weight_mean", _link_weights("mean"), scope="layer", source=_LA_MALFA, orders=("zeroth",),
         definition="Mean of the layer's stored weights that are edges, each stored weight once."),
    _own("layer_weight_variance", _link_weights("variance"), scope="layer", source=_LA_MALFA, orders=("zeroth",),
         definition="Population variance of the layer's stored weights that are edges, each stored weight once."),
    _own("power_law_alpha", _fitted(lambda fit: fit.power_law.alpha), exact=False, source=_POWER_LAW,
         definition=f"Exponent of a power law fitted to the degree tail: {_TAIL}."),
    _own("power_law_xmin", _fitted(lambda fit: fit.power_law.xmin), exact=False, source=_POWER_LAW,
         definition=f"Degree from which on the power law is fitted: {_TAIL}."),
    _own("power_law_distance", _fitted(lambda fit: fit.power_law.D), exact=False, source=_POWER_LAW,
         definition=f"Kolmogorov-Smirnov distance between the degree tail and its power law: {_TAIL}."),
    *(_own(f"power_law_vs_{other}", _against(other), exact=False, source=_POWER_LAW,
           definition=f"Normalized log-likelihood ratio of the power law against the {other} distribution for the "
                      f"degree tail, positive where the power law fits better; p in the note: {_TAIL}.")
      for other in ("exponential", "lognormal")),
]  # fmt: skip
