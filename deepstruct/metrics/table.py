"""How a family file states a metric that both explicit analyzers offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

Compute = Callable[[Any], Any]


def on_both(
    name: str, definition: str, *, igraph: Compute, networkx: Compute, source: str = "", **options: Any
) -> list[Metric]:
    """One metric, two analyzers, one definition. `options` are further fields of `Metric`."""
    computes = {"igraph": igraph, "networkx": networkx}
    return [
        Metric(name, analyzer, compute, definition=definition, source=source, **options)
        for analyzer, compute in computes.items()
    ]


def entropy(counts: npt.NDArray[np.int64]) -> float:
    """Shannon entropy in nats of the distribution that `counts` (no zeros) are proportional to."""
    share = counts / counts.sum()
    return float(abs((share * np.log(share)).sum()))


def standardized_moment(values: npt.NDArray[Any], counts: npt.NDArray[Any], power: int) -> float:
    """Skewness (power 3) or excess kurtosis (power 4) of a population: `values`, each `counts` times."""
    if len(values) < 2:
        raise MetricError("all values are equal: skewness and kurtosis are not defined")
    n = float(counts.sum())
    apart = values - float(values @ counts) / n
    variance = float(apart**2 @ counts) / n
    return float(apart**power @ counts) / n / variance ** (power / 2) - (3.0 if power == 4 else 0.0)


def moments(view: Any, vector: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """`vector` as float64, ready for mean and variance. Raises MetricError when there are no nodes."""
    view.need_nodes()
    return np.asarray(vector, np.float64)


def no_path() -> MetricError:
    """The error of metrics that speak of input-output paths, where there is none."""
    return MetricError("no path leads from an input to an output")


def all_pairs(graph: StructureGraph) -> float:
    """Steps of one breadth-first search from every node."""
    return float(graph.num_nodes) * (float(graph.num_nodes) + 2.0 * float(graph.num_edges))
