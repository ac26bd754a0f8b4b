"""Paths from inputs to outputs: what runs through each unit, how long they are, how evenly they spread."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.memo import need_units, once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import entropy, flow, lengths
from deepstruct.engine.semirings_extreme import HEAVIEST, LIGHTEST, STRONGEST, WEAKEST, WIDEST, Extreme
from deepstruct.engine.sweeps import sweep
from deepstruct.errors import MetricError
from deepstruct.metrics import paths
from deepstruct.metrics.base import Metric
from deepstruct.metrics.table import no_path
from deepstruct.structure.operators import WeightMode

_SHARED = {m.name: m for m in paths.METRICS}
_DAG = ("dag",)


def _shared(name: str, compute: Callable[[OperatorView], Any]) -> Metric:
    """A metric that the explicit analyzers offer as well: the same definition, computed by passes."""
    other = _SHARED[name]
    return Metric(
        name, "operator", compute, scope=other.scope, definition=other.definition, source=other.source,
        requires=other.requires, default=other.default,
    )  # fmt: skip


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    return Metric(name, "operator", compute, definition=definition, default=False, requires=_DAG, **options)


# -- through each unit


def _shares(view: OperatorView, mode: WeightMode) -> torch.Tensor:
    view.need_dag()
    need_units(view, "path_centrality")
    return once(view, f"path shares {mode}", lambda: flow.path_shares(view.graph, mode))


def _centrality(mode: WeightMode) -> Callable[[OperatorView], np.ndarray]:
    return lambda view: view.nodes(_shares(view, mode))


def _largest_share(view: OperatorView) -> float:
    hidden = view.nodes(_shares(view, "pattern"))[view.is_hidden]
    if len(hidden) == 0:
        raise MetricError("the graph has no hidden nodes")
    return float(hidden.max())


def _layer_shares(view: OperatorView) -> dict[str, float]:
    values = view.nodes(_shares(view, "pattern"))
    return {name: float(np.nansum(here)) for name, here in view.graph.node_values_by_space(values).items()}


def _choice(view: OperatorView) -> np.ndarray:
    view.need_dag()
    need_units(view, "path_entropy")
    return view.nodes(entropy.choice_entropy(view.graph))


def _choice_mean(view: OperatorView) -> float:
    values = _choice(view)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise MetricError("no node reaches an output")
    return float(values.mean())


# -- of all paths


def _moment(which: int) -> Callable[[OperatorView], float]:
    return lambda view: once(view, "length moments", lambda: lengths.length_moments(view.passed))[which]


def _length_shares(view: OperatorView) -> str:
    return json.dumps({str(k): share for k, share in lengths.length_shares(view.graph).items()})


def _length_counts(view: OperatorView) -> str:
    counts = lengths.length_counts(view.graph)
    if not counts:
        raise no_path()
    return json.dumps({str(k): count for k, count in counts.items()})


def _log_norm(mode: WeightMode) -> Callable[[OperatorView], float]:
    def compute(view: OperatorView) -> float:
        total = flow.log_total(view.passed, mode)
        if total == -math.inf:
            raise no_path()
        return total / math.log(10)

    return compute


def _path_entropy(mode: WeightMode) -> Callable[[OperatorView], float]:
    return lambda view: entropy.path_entropy(view.passed, mode)


# -- best and worst paths


def _best(semiring: Extreme, factor: float = 1.0) -> Callable[[OperatorView], float]:
    """The best value over the outputs, from sources that start with nothing lost."""

    def compute(view: OperatorView) -> float:
        view.need_dag()
        begin = math.inf if semiring.bottleneck else 0.0
        start = torch.where(view.graph.is_source, begin, semiring.zero).to(semiring.dtype)
        ends = sweep(view.graph, start, semiring)[view.graph.is_output & view.graph.is_node]
        if ends.numel() == 0 or bool((ends == semiring.zero).all()):
            raise no_path()
        best = float(ends.max() if semiring.largest else ends.min())
        if semiring.bottleneck and best == math.inf:
            raise MetricError("a path has no weight edge at all: its width has no bound")
        return best * factor

    return compute


_PRODUCT = "structural edges count 1"
_NEYSHABUR = "Neyshabur et al. 2015 (to be checked)"

METRICS: list[Metric] = [
    _shared("path_centrality", _centrality("pattern")),
    _shared("path_entropy", _choice),
    _shared("path_entropy_mean", _choice_mean),
    _shared("path_length_mean", _moment(0)),
    _shared("path_length_variance", _moment(1)),
    _own("path_centrality_max", _largest_share,
         "Largest path_centrality of a hidden node (neither input nor output): what the loss of one costs at most."),
    _own("weighted_path_centrality", _centrality("abs"), scope="node", orders=("zeroth",),
         definition="path_centrality with every path counted with the product of its |w|: the share of the L1 path "
                    f"norm that runs through the node, and would be lost with it; {_PRODUCT}.",
         source="Tanaka et al. 2020 (SynFlow of a unit)"),
    _own("layer_path_centrality", _layer_shares, scope="layer",
         definition="Sum of path_centrality over the layer's nodes: the mean number of its nodes on an input-output "
                    "path; 1 for a layer that every path crosses once."),
    _own("path_distribution_entropy", _path_entropy("pattern"),
         "Entropy, in nats, of the uniform distribution over all input-output paths: the natural logarithm of "
         "path_count."),
    _own("weighted_path_entropy", _path_entropy("abs"), orders=("zeroth",),
         definition="Entropy, in nats, of the distribution over all input-output paths in proportion to the product of "
                    f"their |w|; {_PRODUCT}.",
         source="Li & Eisner 2009 (entropy semiring; to be checked)"),
    _own("path_length_distribution", _length_shares,
         "Share of the input-output paths with each number of edges, as a JSON object {edges: share}."),
    _own("path_length_counts", _length_counts,
         "Number of input-output paths with each number of edges, exact integers, as a JSON object {edges: paths}."),
    _own("path_norm_log10", _log_norm("abs"), orders=("zeroth",), source=_NEYSHABUR,
         definition=f"Decimal logarithm of the L1 path norm path_norm; it neither overflows nor vanishes; {_PRODUCT}."),
    _own("path_norm_squared_log10", _log_norm("square"), orders=("zeroth",), source=_NEYSHABUR,
         definition="Decimal logarithm of the squared L2 path norm path_norm_squared; it neither overflows nor "
                    f"vanishes; {_PRODUCT}."),
    _own("weighted_shortest_path", _best(LIGHTEST), orders=("zeroth",),
         definition="Least sum of |w| over an input-output path; structural edges count 1."),
    _own("weighted_longest_path", _best(HEAVIEST), orders=("zeroth",),
         definition="Largest sum of |w| over an input-output path; structural edges count 1."),
    _own("strongest_path_log10", _best(STRONGEST, -1 / math.log(10)), orders=("zeroth",),
         definition=f"Decimal logarithm of the largest product of |w| over an input-output path; {_PRODUCT}. It is the "
                    "shortest path with lengths -log|w|."),
    _own("weakest_path_log10", _best(WEAKEST, -1 / math.log(10)), orders=("zeroth",),
         definition=f"Decimal logarithm of the smallest product of |w| over an input-output path; {_PRODUCT}. It is "
                    "the longest path with lengths -log|w|."),
    _own("widest_path", _best(WIDEST), orders=("zeroth",),
         definition="Largest bottleneck: over all input-output paths the largest of the smallest |w| on the path; "
                    "structural edges have any width."),
]  # fmt: skip
