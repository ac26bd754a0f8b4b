"""Paths from inputs to outputs of the explicit graph."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.table import no_path, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView
    from deepstruct.analyzers.passes import DagSweep

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


def _counts(view: IgraphView, sweep: DagSweep, start: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Numbers of paths per node, in int64 where they fit and as Python integers elsewhere."""
    ones = np.zeros(view.num_nodes, np.float64)
    ones[start] = 1.0
    with np.errstate(over="ignore"):
        largest = sweep.sums(ones).max(initial=0.0)
    return sweep.sums(ones.astype(np.int64).astype(np.int64 if largest < _SAFE else object))


def _from_inputs(view: IgraphView) -> npt.NDArray[Any]:
    return view.once("paths from inputs", lambda: _counts(view, view.sweep, view.inputs).astype(object))


def _to_outputs(view: IgraphView) -> npt.NDArray[Any]:
    return view.once("paths to outputs", lambda: _counts(view, view.sweep_back, view.outputs).astype(object))


def path_centrality_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    total = path_count_igraph(view)
    if total == 0:
        raise no_path()
    return (_from_inputs(view) * _to_outputs(view) / total).astype(np.float64)


def _paths_by_length(view: NetworkxView) -> list[dict[int, int]]:
    """Per node the number of paths from the inputs with each number of edges."""
    found: list[dict[int, int]] = [{} for _ in range(view.num_nodes)]
    for node in view.topological_order:
        here = found[node]
        if node in view.input_nodes:
            here[0] = here.get(0, 0) + 1
        for source, _ in view.multigraph.in_edges(node):
            for length, count in found[source].items():
                here[length + 1] = here.get(length + 1, 0) + count
    return found


def _paths_onward(view: NetworkxView) -> dict[int, int]:
    """Per node the number of paths to the outputs."""
    count: dict[int, int] = {}
    for node in reversed(view.topological_order):
        count[node] = sum(count[target] for _, target in view.multigraph.out_edges(node))
        count[node] += node in view.output_nodes
    return count


def path_centrality_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    total = path_count_networkx(view)
    if total == 0:
        raise no_path()
    ahead = [sum(lengths.values()) for lengths in _paths_by_length(view)]
    onward = _paths_onward(view)
    return np.array([ahead[node] * onward[node] / total for node in range(view.num_nodes)], np.float64)


def _moments_igraph(view: IgraphView) -> tuple[Fraction, Fraction]:
    """Mean length and mean square: sums over the paths to a node are passed on as their numbers are."""
    total = path_count_igraph(view)
    if total == 0:
        raise no_path()
    count = _from_inputs(view)
    start = np.zeros(view.num_nodes, object)
    start[view.inputs] = 1
    arriving = count - start
    first = view.sweep.sums(arriving)
    second = view.sweep.sums(2 * first - arriving)
    outputs = view.outputs
    return Fraction(sum(first[outputs].tolist()), total), Fraction(sum(second[outputs].tolist()), total)


def path_length_mean_igraph(view: IgraphView) -> float:
    return float(_moments_igraph(view)[0])


def path_length_variance_igraph(view: IgraphView) -> float:
    mean, square = _moments_igraph(view)
    return float(square - mean * mean)


def _moments_networkx(view: NetworkxView) -> tuple[Fraction, Fraction]:
    total: dict[int, int] = {}
    by_length = _paths_by_length(view)
    for node in view.output_nodes:
        for length, count in by_length[node].items():
            total[length] = total.get(length, 0) + count
    paths = sum(total.values())
    if paths == 0:
        raise no_path()
    mean = Fraction(sum(length * count for length, count in total.items()), paths)
    return mean, Fraction(sum(length**2 * count for length, count in total.items()), paths)


def path_length_mean_networkx(view: NetworkxView) -> float:
    return float(_moments_networkx(view)[0])


def path_length_variance_networkx(view: NetworkxView) -> float:
    mean, square = _moments_networkx(view)
    return float(square - mean * mean)


def path_entropy_igraph(view: IgraphView) -> npt.NDArray[np.float64]:
    onward = _to_outputs(view)
    reaching = onward > 0
    use = reaching[view.edges.target]
    source, target = view.edges.source[use], view.edges.target[use]
    share = (onward[target] / onward[source]).astype(np.float64)
    entropy = -np.bincount(source, share * np.log(share), view.num_nodes).astype(np.float64)
    stop = np.array([1 / count if count else 1.0 for count in onward[view.outputs]])
    entropy[view.outputs] -= stop * np.log(stop)
    return np.where(reaching.astype(bool), np.maximum(entropy, 0.0), np.nan)


def path_entropy_networkx(view: NetworkxView) -> npt.NDArray[np.float64]:
    onward = _paths_onward(view)
    values = np.full(view.num_nodes, np.nan)
    for node, count in onward.items():
        if count:
            ways = [onward[target] for _, target in view.multigraph.out_edges(node) if onward[target]]
            ways += [1] * (node in view.output_nodes)
            values[node] = math.fsum(way / count * math.log(count / way) for way in ways)
    return values


def _mean_entropy(values: npt.NDArray[np.float64]) -> float:
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise MetricError("no node reaches an output")
    return float(values.mean())


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
    *on_both(
        "path_centrality",
        "Share of all input-output paths that run through the node, as its first or last node or in between; "
        "parallel edges make different paths. It is also the effective-path loss of the node: the share of the "
        "paths that would be gone without it.",
        source="Pham et al. 2023 (effective paths)",
        scope="node",
        default=False,
        requires=("dag",),
        igraph=path_centrality_igraph,
        networkx=path_centrality_networkx,
    ),
    *on_both(
        "path_length_mean",
        "Mean number of edges of an input-output path, every path counted once.",
        requires=("dag",),
        igraph=path_length_mean_igraph,
        networkx=path_length_mean_networkx,
    ),
    *on_both(
        "path_length_variance",
        "Population variance of the number of edges of an input-output path, every path counted once.",
        requires=("dag",),
        igraph=path_length_variance_igraph,
        networkx=path_length_variance_networkx,
    ),
    *on_both(
        "path_entropy",
        "Entropy, in nats, of how the paths from the node to the outputs split over its out-edges (parallel "
        "edges apart; an output may also stop); NaN where no output is reached.",
        scope="node",
        default=False,
        requires=("dag",),
        igraph=path_entropy_igraph,
        networkx=path_entropy_networkx,
    ),
    *on_both(
        "path_entropy_mean",
        "Mean of path_entropy over the nodes that reach an output.",
        default=False,
        requires=("dag",),
        igraph=lambda view: _mean_entropy(path_entropy_igraph(view)),
        networkx=lambda view: _mean_entropy(path_entropy_networkx(view)),
    ),
]
