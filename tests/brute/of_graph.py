"""What each metric of graph and node scope has to be, from the explicit graph; None where it is not defined."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.brute.explicit import Explicit

E = Explicit


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _standardized(values: np.ndarray, power: int) -> float | None:
    spread = values.std()
    if spread == 0:
        return None
    return float((((values - values.mean()) / spread) ** power).mean()) - (3 if power == 4 else 0)


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    return float(np.corrcoef(x, y)[0, 1]) if len(x) and x.std() and y.std() else None


def _undirected(e: E) -> float | None:
    d = e.din + e.dout
    return _pearson(np.concatenate([d[e.s], d[e.t]]), np.concatenate([d[e.t], d[e.s]]))


def _moments(vector: Callable[[E], np.ndarray], name: str) -> dict[str, Callable[[E], Any]]:
    return {
        f"{name}_mean": lambda e: vector(e).mean(), f"{name}_max": lambda e: vector(e).max(),
        f"{name}_variance": lambda e: vector(e).var(), f"{name}_entropy": lambda e: _entropy(np.bincount(vector(e))),
        f"{name}_skewness": lambda e: _standardized(vector(e), 3),
        f"{name}_kurtosis": lambda e: _standardized(vector(e), 4),
    }  # fmt: skip


def _weights(e: E) -> int:
    return sum(p.numel() for p in e.parameters)


def _nonzero(e: E) -> int:
    return sum(int((p != 0).sum()) for p in e.parameters)


def _effective_weights(e: E) -> int:
    """All weights are different numbers: those on effective edges are counted by their values."""
    alive = e.effective[e.s] & e.effective[e.t] & e.weighted
    return len(np.unique(e.w[alive]))


SIZES: dict[str, Callable[[E], Any]] = {
    "nodes": lambda e: e.n,
    "edges": lambda e: e.m,
    "weight_edges": lambda e: e.weighted.sum(),
    "structural_edges": lambda e: (~e.weighted).sum(),
    "parallel_edges": lambda e: e.m - len(set(zip(e.s.tolist(), e.t.tolist(), strict=True))),
    "sources": lambda e: len(e.inputs),
    "outputs": lambda e: len(e.outputs),
    "parameters": lambda e: sum(p.numel() for p in e.net.parameters()),
    "weights": _weights,
    "nonzero_weights": _nonzero,
    "density": lambda e: e.m / (e.n * (e.n - 1)),
    "sparsity": lambda e: 1 - _nonzero(e) / _weights(e),
    "compression": lambda e: _weights(e) / _nonzero(e) if _nonzero(e) else None,
    **_moments(lambda e: e.din, "in_degree"),
    **_moments(lambda e: e.dout, "out_degree"),
    "degree_skewness": lambda e: _standardized(e.din + e.dout, 3),
    "degree_kurtosis": lambda e: _standardized(e.din + e.dout, 4),
    "strength_mean": lambda e: e.strength.mean(),
    "strength_max": lambda e: e.strength.max(),
    "strength_variance": lambda e: e.strength.var(),
    "in_degree": lambda e: e.din,
    "out_degree": lambda e: e.dout,
    "degree": lambda e: e.din + e.dout,
    "strength": lambda e: e.strength,
    "signed_strength_in": lambda e: np.bincount(e.t, e.value["signed"], e.n),
    "signed_strength_out": lambda e: np.bincount(e.s, e.value["signed"], e.n),
    "neighborhood_mean": lambda e: 1 + e.m / e.n,
    "multigraph_assortativity": _undirected,
    "assortativity": _undirected,  # left to the explicit graph where edges are parallel
    "directed_assortativity": lambda e: _pearson(e.dout[e.s], e.din[e.t]),
    "directed_assortativity_in_in": lambda e: _pearson(e.din[e.s], e.din[e.t]),
    "directed_assortativity_in_out": lambda e: _pearson(e.din[e.s], e.dout[e.t]),
    "directed_assortativity_out_out": lambda e: _pearson(e.dout[e.s], e.dout[e.t]),
    "dead_in": lambda e: (e.hidden & (e.din == 0)).sum(),
    "dead_out": lambda e: (e.hidden & (e.dout == 0)).sum(),
    "isolated": lambda e: (e.hidden & (e.din + e.dout == 0)).sum(),
    "removable_in": lambda e: (e.hidden & (e.din == 0))[e.s].sum() / e.m if e.m else None,
    "removable_out": lambda e: (e.hidden & (e.dout == 0))[e.t].sum() / e.m if e.m else None,
    "effective": lambda e: e.effective,
    "effective_nodes": lambda e: e.effective.sum(),
    "effective_edges": lambda e: (e.effective[e.s] & e.effective[e.t]).sum(),
    "effective_parameters": _effective_weights,
    "effective_sparsity": lambda e: 1 - _effective_weights(e) / _weights(e),
    "effective_compression": lambda e: _weights(e) / _effective_weights(e) if _effective_weights(e) else None,
    "weight_reuse": lambda e: e.weighted.sum() / _nonzero(e) if _nonzero(e) else None,
}  # fmt: skip


# -- paths


def _share_max(e: E) -> float | None:
    shares = e.shares()
    return None if shares is None or not e.hidden.any() else shares[e.hidden].max()


def _norm(e: E, mode: str) -> float:
    values = e.from_inputs(mode)
    return float(sum(values[v] for v in e.outputs))


def _log(value: float) -> float | None:
    return math.log10(value) if value else None


def _length_moment(e: E, which: int) -> float | None:
    if not e.paths:
        return None
    mean = sum(k * c for k, c in e.lengths.items()) / e.paths
    return mean if which == 0 else sum((k - mean) ** 2 * c for k, c in e.lengths.items()) / e.paths


def _choices(e: E) -> np.ndarray:
    """Entropy of the next step of a random path from each node, all paths to outputs alike; NaN where none leads."""
    onward, out = e.onward(), np.full(e.n, np.nan)
    for v in range(e.n):
        if onward[v]:
            ways = [onward[x] / onward[v] for x, _ in e.after[v] if onward[x]] + [1 / onward[v]] * (v in e.outputs)
            out[v] = abs(sum(way * math.log(way) for way in ways))
    return out


def _weighted_entropy(e: E) -> float | None:
    """log z - (sum of p log p) / z over the paths, p the product of |w|."""

    def along(x: tuple[float, float], w: float) -> tuple[float, float]:
        w = 1.0 if math.isnan(w) else abs(w)
        return w * x[0], w * (x[1] + math.log(w) * x[0])

    ends = e.ahead((1.0, 0.0), (0.0, 0.0), along, lambda a, b: (a[0] + b[0], a[1] + b[1]))
    z, r = (sum(ends[v][k] for v in e.outputs) for k in (0, 1))
    return math.log(z) - r / z if z else None


def _size(w: float) -> float:
    return 1.0 if math.isnan(w) else abs(w)


def _bottleneck(e: E) -> float | None:
    width = e.best(math.inf, -math.inf, lambda x, w: x if math.isnan(w) else min(x, abs(w)), max)
    return None if width in (None, math.inf) else width


def _kernel_trace(e: E) -> float:
    ahead, back = e.from_inputs("square"), e.onward("square")
    return sum(ahead[u] * back[v] for u, v, real in zip(e.s, e.t, e.weighted, strict=True) if real)


def _depths(e: E) -> np.ndarray:
    return np.array(e.ahead(0, -1, lambda x, w: x + 1 if x >= 0 else -1, max))


def _length(e: E, longest: bool) -> int | None:
    return (max(e.lengths) if longest else min(e.lengths)) if e.lengths else None


PATHS: dict[str, Callable[[E], Any]] = {
    "path_count": lambda e: e.paths,
    "path_count_log10": lambda e: _log(e.paths),
    "path_distribution_entropy": lambda e: math.log(e.paths) if e.paths else None,
    "longest_path": lambda e: _length(e, True),
    "shortest_path": lambda e: _length(e, False),
    "path_norm": lambda e: _norm(e, "abs"),
    "path_norm_squared": lambda e: _norm(e, "square"),
    "path_norm_log10": lambda e: _log(_norm(e, "abs")),
    "path_norm_squared_log10": lambda e: _log(_norm(e, "square")),
    "path_kernel_trace": _kernel_trace,
    "path_centrality": lambda e: e.shares(),
    "weighted_path_centrality": lambda e: e.shares("abs"),
    "path_centrality_max": _share_max,
    "path_length_mean": lambda e: _length_moment(e, 0),
    "path_length_variance": lambda e: _length_moment(e, 1),
    "path_length_counts": lambda e: e.lengths or None,
    "path_length_distribution": lambda e: {k: c / e.paths for k, c in e.lengths.items()} or None,
    "path_entropy": _choices,
    "path_entropy_mean": lambda e: np.nanmean(_choices(e)),
    "weighted_path_entropy": _weighted_entropy,
    "weighted_shortest_path": lambda e: e.best(0.0, math.inf, lambda x, w: x + _size(w), min),
    "weighted_longest_path": lambda e: e.best(0.0, -math.inf, lambda x, w: x + _size(w), max),
    "strongest_path_log10": lambda e: e.best(0.0, -math.inf, lambda x, w: x + math.log10(_size(w)), max),
    "weakest_path_log10": lambda e: e.best(0.0, math.inf, lambda x, w: x + math.log10(_size(w)), min),
    "widest_path": _bottleneck,
    "depth": lambda e: np.where(_depths(e) < 0, np.nan, _depths(e)),
    "depth_profile": lambda e: {k: c for k, c in enumerate(np.bincount(_depths(e)[_depths(e) >= 0])) if c},
    "width_max": lambda e: np.bincount(_depths(e)[_depths(e) >= 0]).max(),
    "descendants": lambda e: e.reached.sum() - len(e.inputs),
    "ancestors": lambda e: e.reaching.sum() - len(e.outputs),
    "input_output_reach": lambda e: sum(e.fields[v] for v in e.outputs) / (len(e.inputs) * len(e.outputs)),
    "receptive_field": lambda e: e.fields,
}


# -- distances and components; every node is a source


def _apart(e: E) -> np.ndarray:
    return np.isfinite(e.distance) & (e.distance > 0)


def _inverse(e: E) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(_apart(e), 1 / e.distance, 0)


def _closeness(e: E) -> np.ndarray:
    away = np.where(_apart(e), e.distance, 0).sum(0)
    return _apart(e).sum(0) / np.maximum(away, 1)


def _mean_over(values: np.ndarray, where: np.ndarray) -> float | None:
    return float(values[where].mean()) if where.any() else None


def _eccentricity(e: E) -> np.ndarray:
    return np.where(np.isfinite(e.distance), e.distance, 0).max(0)


def _diameter(e: E) -> float:
    largest = e.sizes[e.component] == e.sizes.max()
    return float(_eccentricity(e)[largest].max())


def _from_inputs(e: E) -> np.ndarray:
    found = e.directed_distance[sorted(e.inputs)].min(0)
    return np.where(np.isinf(found), np.nan, found)


def _betweenness(e: E) -> np.ndarray:
    """Sum over s, t of the share of the shortest directed paths through a node; parallel edges are different."""
    d, n = e.directed_distance, e.n
    sigma, walks = np.eye(n), np.eye(n)
    for length in range(1, int(d[np.isfinite(d)].max()) + 1):
        walks = walks @ e.dense
        sigma = np.where(d == length, walks, sigma)
    sigma[~np.isfinite(d)] = 0
    out = np.zeros(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        for v in range(n):
            on = d[:, v, None] + d[None, v, :] == d
            share = np.where(on & np.isfinite(d), sigma[:, v, None] * sigma[None, v, :] / sigma, 0)
            share[v] = share[:, v] = 0
            out[v] = share.sum() - np.trace(share)
    return out


def _cores(e: E) -> np.ndarray:
    """Peel the node of the fewest edges, again and again."""
    left, alive = e.both.sum(1), np.ones(e.n, bool)
    core, k = np.zeros(e.n), 0.0
    for _ in range(e.n):
        v = int(np.where(alive, left, np.inf).argmin())
        k = max(k, left[v])
        core[v], alive[v] = k, False
        left = left - e.both[v]
    return core


DISTANCES: dict[str, Callable[[E], Any]] = {
    "average_path_length_sampled": lambda e: _mean_over(e.distance, _apart(e)),
    "directed_average_path_length_sampled": lambda e: _mean_over(
        e.directed_distance, np.isfinite(e.directed_distance) & (e.directed_distance > 0)
    ),
    "global_efficiency_sampled": lambda e: _inverse(e).sum() / (e.n * (e.n - 1)),
    "closeness_sampled": _closeness,
    "harmonic_centrality_sampled": lambda e: _inverse(e).sum(0),
    "eccentricity_lower_bound": _eccentricity,
    "eccentricity_upper_bound": _eccentricity,
    "distance_from_nodes": _from_inputs,
    "two_step_neighborhood_mean_sampled": lambda e: (e.directed_distance <= 2).sum(1).mean(),
    "beta_0": lambda e: len(e.sizes),
    "beta_1": lambda e: e.m - e.n + len(e.sizes),
    "weakly_connected_components": lambda e: len(e.sizes),
    "largest_component": lambda e: e.sizes.max(),
    "component_size_mean": lambda e: e.sizes.mean(),
    "multigraph_core_number": _cores,
    "multigraph_core_number_mean": lambda e: _cores(e).mean(),
    "multigraph_core_number_max": lambda e: _cores(e).max(),
}
SEARCHES: dict[str, Callable[[E], Any]] = {
    "betweenness_sampled": _betweenness,
    "betweenness_sampled_mean": lambda e: _betweenness(e).mean(),
    "betweenness_sampled_max": lambda e: _betweenness(e).max(),
    "butterflies_sampled": lambda e: None if (e.dense > 1).any() else _four_cycles(e),
}
# (lower, upper) bounds of what the metric has to be
BETWEEN: dict[str, Callable[[E], tuple[Any, Any]]] = {
    "diameter_lower_bound": lambda e: (_diameter(e) / 2, _diameter(e)),
    "diameter_upper_bound": lambda e: (_diameter(e), 2 * _diameter(e)),
    "butterflies_upper_bound": lambda e: (_four_cycles(e), np.inf),
    # 64 registers for each node: a standard error of 13 % for each counter
    "average_path_length_hyperball": lambda e: _around(_mean_over(e.distance, _apart(e)), 0.4),
    "harmonic_centrality_hyperball": lambda e: _around(_inverse(e).sum(0), 0.8, 1.0),
}


def _around(value: Any, share: float, more: float = 0.0) -> tuple[Any, Any]:
    return value * (1 - share) - more, value * (1 + share) + more


# -- spectra and centralities


def _projected(matrix: np.ndarray, ones: np.ndarray) -> np.ndarray:
    """The part of a vector in the eigenspace of the largest eigenvalue."""
    values, vectors = np.linalg.eigh(matrix)
    top = vectors[:, values > values[-1] * (1 - 1e-9)]
    return top @ (top.T @ ones)


def _hits(e: E, which: int) -> np.ndarray | None:
    if not e.m:
        return None
    hub = _projected(e.dense @ e.dense.T, np.ones(e.n))
    found = hub if which == 0 else e.dense.T @ hub
    return found / found.sum()


def _katz(e: E) -> np.ndarray:
    alpha = 0.9 / np.linalg.eigvalsh(e.both)[-1] if e.m else 0.9
    found = np.linalg.solve(np.eye(e.n) - alpha * e.dense.T, np.ones(e.n))
    return found / np.linalg.norm(found)


def _pagerank(e: E) -> np.ndarray:
    """The stationary vector of the Google matrix, by a linear solve."""
    out = e.dense.sum(1)
    walk = np.where(out[:, None] > 0, e.dense / np.maximum(out, 1)[:, None], 1 / e.n)
    found = np.linalg.solve(np.eye(e.n) - 0.85 * walk.T, np.full(e.n, 0.15 / e.n))
    return found / found.sum()


def _eigenvector(e: E) -> np.ndarray:
    found = _projected(e.both, np.ones(e.n))
    return found / np.linalg.norm(found)


def _laplacian(e: E, normalized: bool) -> float | None:
    """The second smallest eigenvalue in the giant component."""
    if not e.m:
        return None
    inner = e.both[np.ix_(e.giant, e.giant)]
    d = inner.sum(1)
    matrix = np.eye(len(d)) - inner / np.sqrt(np.outer(d, d)) if normalized else np.diag(d) - inner
    return float(np.linalg.eigvalsh(matrix)[1])


SPECTRA: dict[str, Callable[[E], Any]] = {
    "spectral_radius": lambda e: np.linalg.eigvalsh(e.both)[-1],
    "laplacian_spectral_radius": lambda e: np.linalg.eigvalsh(np.diag(e.both.sum(1)) - e.both)[-1],
    "algebraic_connectivity": lambda e: _laplacian(e, False),
    "normalized_algebraic_connectivity": lambda e: _laplacian(e, True),
    "cheeger_lower": lambda e: None if not e.m else _laplacian(e, True) / 2,
    "cheeger_upper": lambda e: None if not e.m else math.sqrt(2 * max(_laplacian(e, True), 0)),
    "katz": _katz,
    "pagerank": _pagerank,
    "eigenvector_centrality": _eigenvector,
    "hub": lambda e: _hits(e, 0),
    "authority": lambda e: _hits(e, 1),
}


# -- 4-cycles, partitions


def _four_cycles(e: E) -> int:
    shared = e.simple @ e.simple
    pairs = shared * (shared - 1) / 2
    return round((pairs.sum() - np.trace(pairs)) / 4)


def _multi_cycles(e: E) -> int:
    matrix = e.both.copy()
    np.fill_diagonal(matrix, 0)
    pairs = ((matrix @ matrix) ** 2 - matrix**2 @ matrix**2) / 2
    return round((pairs.sum() - np.trace(pairs)) / 4)


def _groups(e: E) -> tuple[np.ndarray, np.ndarray] | None:
    """Per layer the edges within it, and its summed degrees."""
    if not e.m:
        return None
    inside = np.bincount(e.space[e.s[e.space[e.s] == e.space[e.t]]], minlength=len(e.names))
    return inside, np.bincount(e.space, e.both.sum(1), len(e.names))


def _of_groups(value: Callable[[np.ndarray, np.ndarray, int], float]) -> Callable[[E], float | None]:
    def compute(e: E) -> float | None:
        found = _groups(e)
        return None if found is None else float(value(*found, e.m))

    return compute


def _cut(inside: np.ndarray, volume: np.ndarray, m: int) -> float:
    used = volume > 0
    return ((volume - 2 * inside)[used] / volume[used]).sum()


OTHERS: dict[str, Callable[[E], Any]] = {
    "butterflies": _four_cycles,
    "butterflies_multigraph": _multi_cycles,
    "modularity_of_partition": _of_groups(lambda inside, volume, m: (inside / m - (volume / (2 * m)) ** 2).sum()),
    "coverage_of_partition": _of_groups(lambda inside, volume, m: inside.sum() / m),
    "normalized_cut_of_partition": _of_groups(_cut),
}


def plain(value: Any) -> Any:
    """A metric's value as a dict of numbers where it is a JSON object."""
    if isinstance(value, str) and value.startswith("{"):
        return {int(k): v for k, v in json.loads(value).items()}
    return value
