"""Spectral clustering of the weighted graph, and the normalized cut of what it finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.engine import budget
from deepstruct.engine.adjacency import has_vector_entry, ones_on_nodes, symmetric_action
from deepstruct.engine.partition import group_sums
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import WeightMode


@dataclass(frozen=True)
class Clusters:
    """int64 per slot (-1 outside), the cut of them all, and how the eigenvectors came out."""

    labels: torch.Tensor
    normalized_cut: float
    nodes: int
    converged: bool


def spectral_clusters(
    graph: StructureGraph, k: int, *, mode: WeightMode = "abs", structural: bool = True, seed: int = 0,
    steps: int = 300, tolerance: float = 1e-6, max_memory: int = 2 << 30,
) -> Clusters | None:  # fmt: skip
    """Normalized spectral clustering (Shi & Malik 2000; Ng, Jordan & Weiss 2001) into k groups.

    The k top eigenvectors of D^-1/2 S D^-1/2, S the symmetric matrix of edge values, by implicitly restarted
    Lanczos; rows divided by sqrt(degree) and clustered by k-means from seeded k-means++ starts.

    Returns:
        None when fewer than k + 2 nodes have edges of a value above 0.
    """
    from scipy.cluster.vq import kmeans2
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    degree = symmetric_action(graph, ones_on_nodes(graph), mode=mode, structural=structural)
    used = has_vector_entry(graph) & (degree > 0)
    nodes = int(used.sum())
    if nodes < k + 2:
        return None
    need = 8 * nodes * (3 * k + 20)
    if need > max_memory:
        raise MemoryError(f"needs about {need / 2**30:.3g} GiB")
    root = torch.where(used, degree.clamp(min=1e-300).rsqrt(), 0.0)
    slots = torch.zeros(graph.num_slots, dtype=torch.float64)

    def apply(x: np.ndarray) -> np.ndarray:
        budget.check()
        slots[used] = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64).reshape(-1))
        out = symmetric_action(graph, slots * root, mode=mode, structural=structural).mul_(root)
        return np.asarray(out[used].numpy())

    rng = np.random.default_rng(seed)
    operator = LinearOperator((nodes, nodes), matvec=apply, dtype=np.float64)
    start = root[used].reciprocal().numpy() * (1 + 0.1 * rng.standard_normal(nodes))
    converged = True
    if nodes <= 4 * k + 40:
        dense = np.stack([apply(row) for row in np.eye(nodes)])
        vectors = np.linalg.eigh((dense + dense.T) / 2)[1][:, -k:]
    else:
        try:
            vectors = eigsh(operator, k, which="LA", v0=start, maxiter=steps, tol=tolerance)[1]
        except ArpackNoConvergence as error:
            if error.eigenvectors.shape[1] == 0:
                raise
            vectors, converged = error.eigenvectors, False
    rows = vectors * root[used].numpy()[:, None]
    best: tuple[float, torch.Tensor] | None = None
    for attempt in range(8):
        found = kmeans2(rows, k, minit="++", seed=np.random.default_rng(seed + attempt), missing="warn")[1]
        labels = torch.full((graph.num_slots,), 0)
        labels[used] = torch.from_numpy(found.astype(np.int64))
        cut = group_sums(graph, labels, mode=mode, structural=structural).normalized_cut
        if best is None or cut < best[0]:
            best = cut, labels
    assert best is not None
    return Clusters(torch.where(used, best[1], -1), best[0], nodes, converged)
