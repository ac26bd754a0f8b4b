"""What changes from one checkpoint to the next: connections, subspaces, spectra, and what permutations leave alone.

Everything here works on stored weights, name -> tensor of at least two axes, the first of them the outputs of
the layer (as in linear layers and convolutions). A connection is a weight above a threshold in magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from deepstruct.structure.operators import alive

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

Weights = Mapping[str, torch.Tensor]
Vector = npt.NDArray[np.float64]
MATCHED = 2048  # outputs of a layer that are matched one to one, at most: the matching is cubic
_DENSE = 512  # smaller side of a matrix up to which all its singular vectors are computed

DEFINITIONS = {
    "before": "connections of the earlier checkpoint",
    "after": "connections of the later checkpoint",
    "survival": "share of the earlier connections that are still there: |A and B| / |A|",
    "jaccard": "|A and B| / |A or B| of the connections (1 when both are empty)",
    "topology_distance": "mean over outputs of |symmetric difference| / (|a| + |b|) of their incoming connections, "
    "with the outputs of both checkpoints matched one to one so that it is least (after Liu et al. 2020, NNSTD; inputs "
    f"are not matched); left out above {MATCHED} outputs",
    "change": "relative change of the weights: |W_b - W_a| / |W_a|, Frobenius norms",
    "spectrum_drift": "relative change of the largest singular values: |s_b - s_a| / |s_a|",
    "left_overlap": "mean squared cosine of the principal angles between the leading left singular subspaces (1: the "
    "same subspace)",
    "right_overlap": "the same for the right singular subspaces",
    "largest_angle": "largest principal angle, in radians, between the leading left singular subspaces",
    "fingerprint": "distance of the sorted degrees and strengths of inputs and outputs, from 0 to 1; no permutation of "
    "inputs or outputs changes it",
}
"""What the columns of a comparison mean, in order."""


@dataclass(frozen=True)
class LayerDrift:
    """How one layer differs between two checkpoints; fields as in `DEFINITIONS`, None where not defined."""

    before: int
    after: int
    survival: float | None
    jaccard: float
    topology_distance: float | None
    change: float | None
    spectrum_drift: float | None
    left_overlap: float | None
    right_overlap: float | None
    largest_angle: float | None
    fingerprint: float


def connections(weight: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Boolean of the weight's shape: where a connection is."""
    return alive(weight.detach(), threshold)


def layer_drift(before: torch.Tensor, after: torch.Tensor, rank: int = 8, threshold: float = 0.0) -> LayerDrift:
    """Compare one layer in two checkpoints.

    Args:
        before, after: of equal shape (outputs, ...).
        rank: how many leading singular values and vectors are compared (fewer in smaller layers).
        threshold: magnitude up to which a weight is no connection.
    """
    a, b = _matrix(before, threshold), _matrix(after, threshold)
    there, later = a != 0, b != 0
    both, either = int((there & later).sum()), int((there | later).sum())
    kept = int(there.sum())
    norm = float(torch.linalg.vector_norm(a))
    k = min(rank, *a.shape)
    one, two = _leading(a, k), _leading(b, k)
    cosines = [_cosines(x, y) for x, y in ((one.left, two.left), (one.right, two.right))]
    size = float(np.linalg.norm(one.values))
    return LayerDrift(
        before=kept,
        after=int(later.sum()),
        survival=both / kept if kept else None,
        jaccard=both / either if either else 1.0,
        topology_distance=topology_distance(there, later),
        change=float(torch.linalg.vector_norm(b - a)) / norm if norm else None,
        spectrum_drift=float(np.linalg.norm(two.values - one.values)) / size if size else None,
        left_overlap=_overlap(cosines[0]),
        right_overlap=_overlap(cosines[1]),
        largest_angle=float(np.arccos(cosines[0].min())) if cosines[0].size else None,
        fingerprint=fingerprint_distance(fingerprint(a), fingerprint(b)),
    )


def _matrix(weight: torch.Tensor, threshold: float) -> torch.Tensor:
    """(outputs, everything else) in float64, 0 where no connection is."""
    flat = weight.detach().reshape(weight.shape[0], -1)
    return flat.to(torch.float64) * alive(flat, threshold)


@dataclass(frozen=True)
class _Leading:
    values: Vector
    left: Vector
    right: Vector


def _leading(matrix: torch.Tensor, k: int) -> _Leading:
    """The k largest singular values and their vectors, those of value 0 left out."""
    array = matrix.numpy()
    if k == 0:
        return _Leading(np.empty(0), np.empty((array.shape[0], 0)), np.empty((array.shape[1], 0)))
    if min(array.shape) <= max(_DENSE, k + 1):
        left, values, right = np.linalg.svd(array, full_matrices=False)
    else:
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(0).standard_normal(min(array.shape))
        left, values, right = svds(array, k=k, v0=start)
        order = np.argsort(-values)
        left, values, right = left[:, order], values[order], right[order]
    values = np.asarray(values[:k], np.float64)
    solid = int((values > 1e-12 * max(float(values[0]), 1e-300)).sum()) if values[0] > 0 else 0
    return _Leading(values, left[:, :solid], right[:solid].T)


def _cosines(a: Vector, b: Vector) -> Vector:
    """Cosines of the principal angles between two subspaces given by orthonormal columns."""
    if min(a.shape[1], b.shape[1]) == 0:
        return np.empty(0)
    return np.clip(np.linalg.svd(a.T @ b, compute_uv=False), 0, 1)


def _overlap(cosines: Vector) -> float | None:
    return float(np.mean(cosines**2)) if cosines.size else None


def topology_distance(before: torch.Tensor, after: torch.Tensor) -> float | None:
    """Distance from 0 to 1 of two boolean matrices (outputs, inputs), outputs matched; see `DEFINITIONS`.

    None for more than 2,048 outputs, or none. Two outputs without connections are at distance 0.
    """
    outputs = before.shape[0]
    if not 0 < outputs <= MATCHED:
        return None
    from scipy.optimize import linear_sum_assignment

    a, b = before.to(torch.float32), after.to(torch.float32)
    sizes = a.sum(1)[:, None] + b.sum(1)[None, :]
    cost = torch.where(sizes > 0, (sizes - 2 * (a @ b.T)) / sizes.clamp(min=1), 0).numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def fingerprint(matrix: torch.Tensor) -> dict[str, Vector]:
    """Sorted degrees and strengths (sums of |w|) of the outputs (rows) and the inputs (columns) of a layer.

    No permutation of its inputs or outputs changes them.
    """
    there, size = (matrix != 0).to(torch.float64), matrix.abs().to(torch.float64)
    return {
        "in_degree": np.sort(there.sum(1).numpy()),
        "out_degree": np.sort(there.sum(0).numpy()),
        "in_strength": np.sort(size.sum(1).numpy()),
        "out_strength": np.sort(size.sum(0).numpy()),
    }


def fingerprint_distance(a: Mapping[str, Vector], b: Mapping[str, Vector]) -> float:
    """Mean over the vectors that both have of |x - y| / (|x| + |y|), 1-norms: from 0 to 1."""
    parts = []
    for name in a.keys() & b.keys():
        size = float(np.abs(a[name]).sum() + np.abs(b[name]).sum())
        parts.append(float(np.abs(a[name] - b[name]).sum()) / size if size else 0.0)
    return float(np.mean(parts)) if parts else 0.0


def graph_fingerprint(graph: StructureGraph) -> dict[str, dict[str, Vector]]:
    """Per layer (space of nodes) the sorted in-degrees, out-degrees, strengths and log2 path counts of its nodes.

    Units may be renamed within their layers without changing it: features of a network to predict from. A node
    on no input-output path has -inf for its path count.
    """
    from deepstruct.engine import passes

    vectors = {
        "in_degree": graph.slots_to_nodes(passes.in_degree(graph)),
        "out_degree": graph.slots_to_nodes(passes.out_degree(graph)),
        "strength": graph.slots_to_nodes(passes.strength(graph)),
    }
    ahead, back = (graph.slots_to_nodes(find(graph)) for find in (passes.paths_from_sources, passes.paths_to_outputs))
    with np.errstate(divide="ignore"):
        vectors["paths"] = np.log2(ahead) + np.log2(back)
    out: dict[str, dict[str, Vector]] = {}
    start = 0
    for space in graph.spaces:
        stop = start + graph.nodes_in(space)
        if stop > start:
            out[space.name] = {name: np.sort(values[start:stop]) for name, values in vectors.items()}
        start = stop
    return out


def exploration_rate(checkpoints: Sequence[Weights], threshold: float = 0.0) -> tuple[dict[str, float], float]:
    """In-time over-parametrization: connections that were there at any time, over those that could be.

    Liu et al. 2021: |union over time of the masks| / number of weights. 1 when every weight was a connection once.

    Args:
        checkpoints: with the same names and shapes.

    Returns:
        (layer -> rate, rate over all layers).
    """
    rates, seen, total = {}, 0, 0
    for name in checkpoints[0]:
        union = torch.zeros(checkpoints[0][name].shape, dtype=torch.bool)
        for weights in checkpoints:
            union |= connections(weights[name], threshold)
        count = int(union.sum())
        rates[name] = count / union.numel() if union.numel() else 1.0
        seen, total = seen + count, total + union.numel()
    return rates, seen / total if total else 1.0
