"""Paths from inputs to outputs of the explicit graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from deepstruct.metrics.table import no_path, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

_SAFE = 2.0**62  # float64 sums that stay below this are exact in int64


def path_count_igraph(view: IgraphView) -> int:
    return view.once("path_count", lambda: _count(view))


def _count(view: IgraphView) -> int:
    start = np.zeros(view.num_nodes, np.float64)
    start[view.inputs] = 1.0
    with np.errstate(over="ignore"):
        largest = view.sweep.sums(start).max(initial=0.0)
    # Python integers in an object array are exact at any size, only slower
    counts = view.sweep.sums(start.astype(np.int64).astype(np.int64 if largest < _SAFE else object))
    return sum(counts[view.outputs].tolist())


def path_count_networkx(view: NetworkxView) -> int:
    count: dict[int, int] = {}
    for node in view.topological_order:
        arriving = sum(count[source] for source, _ in view.multigraph.in_edges(node))
        count[node] = arriving + (node in view.input_nodes)
    return sum(count[node] for node in view.output_nodes)


def path_count_log10_igraph(view: IgraphView) -> float:
    return _log10(path_count_igraph(view))


def path_count_log10_networkx(view: NetworkxView) -> float:
    return _log10(path_count_networkx(view))


def _log10(count: int) -> float:
    if count == 0:
        raise no_path()
    return math.log10(count)


def longest_path_igraph(view: IgraphView) -> int:
    longest = float(view.longest_from_inputs[view.outputs].max(initial=-np.inf))
    if longest < 0:
        raise no_path()
    return int(longest)


def longest_path_networkx(view: NetworkxView) -> int:
    reached = view.longest_from_inputs.keys() & view.output_nodes
    if not reached:
        raise no_path()
    return max(view.longest_from_inputs[node] for node in reached)


def shortest_path_igraph(view: IgraphView) -> int:
    reached = view.from_inputs[view.outputs]
    reached = reached[reached >= 0]
    if len(reached) == 0:
        raise no_path()
    return int(reached.min())


def shortest_path_networkx(view: NetworkxView) -> int:
    reached = view.from_inputs.keys() & view.output_nodes
    if not reached:
        raise no_path()
    return min(view.from_inputs[node] for node in reached)


def depth_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    longest = view.longest_from_inputs
    return np.where(np.isfinite(longest), longest, np.nan)


def depth_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    values = np.full(view.num_nodes, np.nan)
    for node, longest in view.longest_from_inputs.items():
        values[node] = longest
    return values


METRICS = [
    *on_both(
        "path_count",
        "Number of input-output paths, exact. Parallel edges make different paths; every output ends paths, "
        "also one that feeds others; a node that is both input and output is a path of length 0.",
        source="Pham et al. 2023 (effective paths)",
        requires=("dag",),
        igraph=path_count_igraph,
        networkx=path_count_networkx,
    ),
    *on_both(
        "path_count_log10",
        "Decimal logarithm of the number of input-output paths.",
        source="Pham et al. 2023 (effective paths)",
        requires=("dag",),
        igraph=path_count_log10_igraph,
        networkx=path_count_log10_networkx,
    ),
    *on_both(
        "longest_path",
        "Number of edges on the longest path from an input to an output.",
        source="Stier 2019",
        requires=("dag",),
        igraph=longest_path_igraph,
        networkx=longest_path_networkx,
    ),
    *on_both(
        "shortest_path",
        "Number of edges on the shortest path from an input to an output.",
        igraph=shortest_path_igraph,
        networkx=shortest_path_networkx,
    ),
    *on_both(
        "depth",
        "Number of edges on the longest path from an input to the node; NaN where no input leads.",
        source="Stier 2019",
        scope="node",
        default=False,
        requires=("dag",),
        igraph=depth_igraph,
        networkx=depth_networkx,
    ),
]
