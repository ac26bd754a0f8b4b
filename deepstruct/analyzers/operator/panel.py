"""Graph- and node-scope metrics of the operator analyzer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import passes
from deepstruct.errors import MetricError
from deepstruct.metrics import degree, paths, reachability, size
from deepstruct.metrics.base import Metric
from deepstruct.metrics.connectivity import METRICS as CONNECTIVITY
from deepstruct.metrics.table import entropy
from deepstruct.structure.operators import WeightMode
from deepstruct.structure.vectors import how_many

VK = "Vysogorets & Kempe 2021, 2023"
_SHARED = {m.name: m for file in (size, degree, reachability, paths) for m in file.METRICS}
_SHARED |= {m.name: m for m in CONNECTIVITY}


def _shared(name: str, compute: Callable[[OperatorView], Any], **options: Any) -> Metric:
    """A metric that the explicit analyzers offer as well: the same definition, computed by passes."""
    other = _SHARED[name]
    options.setdefault("scope", other.scope)
    return Metric(name, "operator", compute, definition=other.definition, source=other.source, **options)


def _own(name: str, compute: Callable[[OperatorView], Any], definition: str, **options: Any) -> Metric:
    return Metric(name, "operator", compute, definition=definition, **options)


def _density(view: OperatorView) -> float:
    n = view.structure.num_nodes
    return view.structure.num_edges / (n * (n - 1)) if n > 1 else 0.0


def _sparsity(view: OperatorView) -> float:
    total = view.structure.num_weights
    if total == 0:
        raise MetricError("the model has no weights")
    return 1 - view.structure.num_nonzero_weights / total


def _effective_sparsity(view: OperatorView) -> float:
    total = view.structure.num_weights
    if total == 0:
        raise MetricError("the model has no weights")
    return 1 - view.effective_parameters / total


def _compression(kept: int, total: int) -> float:
    if total == 0:
        raise MetricError("the model has no weights")
    if kept == 0:
        raise MetricError("no weight is left: the compression is infinite")
    return total / kept


def _parallel(view: OperatorView) -> int:
    count = view.structure.num_parallel_edges
    if count is None:
        raise MetricError("parallel edges are counted on the explicit graph, which is too large here")
    return count


def _log10(view: OperatorView) -> float:
    count = view.path_count
    if count == 0:
        raise MetricError("no path leads from an input to an output")
    return math.log10(count)


def _degree_moment(vector: str, how: str) -> Callable[[OperatorView], float]:
    def compute(view: OperatorView) -> float:
        view.need_nodes()
        values, counts = view.degree_counts(vector)
        if how == "entropy":
            return entropy(counts)
        if how == "max":
            return int(values[-1])
        mean = float(values @ counts) / int(counts.sum())
        return mean if how == "mean" else float((values - mean) ** 2 @ counts) / int(counts.sum())

    return compute


def _strength_moment(how: str) -> Callable[[OperatorView], float]:
    def compute(view: OperatorView) -> float:
        view.need_nodes()
        return view.strength_moments[how]

    return compute


def _hidden_without(*vectors: str) -> Callable[[OperatorView], int]:
    """Hidden nodes whose degrees of the given names are all 0."""

    def compute(view: OperatorView) -> int:
        return sum(view.hidden_without(*vectors).values())

    return compute


def _path_norm(mode: WeightMode) -> Callable[[OperatorView], float]:
    def compute(view: OperatorView) -> float:
        view.need_dag()
        value = passes.path_norm(view.graph, mode)
        if not math.isfinite(value):
            raise MetricError("the path norm is not finite: it overflows float64, or a weight is not finite")
        return value

    return compute


_ZEROTH = ("zeroth",)

METRICS: list[Metric] = [
    _shared("nodes", lambda v: v.structure.num_nodes),
    _shared("edges", lambda v: v.structure.num_edges),
    _shared("weight_edges", lambda v: v.structure.num_weight_edges),
    _shared("structural_edges", lambda v: v.structure.num_structural_edges),
    _shared("parallel_edges", _parallel),
    _shared("sources", lambda v: how_many(v.structure.is_source)),
    _shared("outputs", lambda v: how_many(v.structure.is_output & v.structure.is_node)),
    _own("parameters", lambda v: v.structure.num_parameters,
         "Elements of all parameters of the model, tied ones once."),
    _own("weights", lambda v: v.structure.num_weights,
         "Stored weights of contractions, tied ones once: the connections that could be."),
    _own("nonzero_weights", lambda v: v.structure.num_nonzero_weights,
         "Stored weights that are edges: non-zero after masks and cuts."),
    _shared("density", _density),
    _own("sparsity", _sparsity, "1 - nonzero_weights / weights.", source=VK),
    _own("compression", lambda v: _compression(v.structure.num_nonzero_weights, v.structure.num_weights),
         "weights / nonzero_weights.", source=VK),
    *(_shared(f"{vector}_{how}", _degree_moment(vector, how))
      for vector in ("in_degree", "out_degree") for how in ("mean", "max", "variance", "entropy")),
    *(_shared(f"strength_{how}", _strength_moment(how)) for how in ("mean", "max", "variance")),
    _shared("in_degree", lambda v: v.in_degree, default=False),
    _shared("out_degree", lambda v: v.out_degree, default=False),
    _shared("strength", lambda v: v.strength, default=False),
    _own("effective", lambda v: v.effective_nodes, default=False, scope="node",
         definition="Whether the node is on a path from an input to an output (0 or 1)."),
    _shared("effective_nodes", lambda v: sum(v.effective_by_space.values())),
    _shared("effective_edges", lambda v: sum(v.effective_edges)),
    _own("effective_parameters", lambda v: v.effective_parameters, orders=_ZEROTH, source=VK,
         definition="Stored weights with at least one edge on a path from an input to an output, tied ones once."),
    _own("effective_sparsity", _effective_sparsity, "1 - effective_parameters / weights.", orders=_ZEROTH, source=VK),
    _own("effective_compression", lambda v: _compression(v.effective_parameters, v.structure.num_weights),
         "weights / effective_parameters.", orders=_ZEROTH, source=VK),
    _shared("dead_in", _hidden_without("in_degree")),
    _shared("dead_out", _hidden_without("out_degree")),
    _shared("isolated", _hidden_without("in_degree", "out_degree")),
    _shared("path_count", lambda v: v.path_count, requires=("dag",)),
    _shared("path_count_log10", _log10, requires=("dag",)),
    _own("path_norm", _path_norm("abs"), orders=_ZEROTH, default=False, requires=("dag",),
         source="Neyshabur et al. 2015 (to be checked); Tanaka et al. 2020 (SynFlow's R)",
         definition="L1 path norm: sum over input-output paths of the product of |w|; structural edges count 1, "
                    "biases are left out."),
    _own("path_norm_squared", _path_norm("square"), orders=_ZEROTH, default=False, requires=("dag",),
         source="Neyshabur et al. 2015 (to be checked)",
         definition="Squared L2 path norm: sum over input-output paths of the product of w squared; structural edges "
                    "count 1, biases are left out."),
    _shared("longest_path", lambda v: v.path_length(longest=True), requires=("dag",)),
    _shared("shortest_path", lambda v: v.path_length(longest=False)),
    _shared("weakly_connected_components", lambda v: len(v.components)),
    _shared("largest_component", lambda v: v.components[0] if v.components else 0),
]  # fmt: skip
