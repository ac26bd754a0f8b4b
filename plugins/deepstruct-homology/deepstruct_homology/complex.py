"""Flag complexes of a network and their persistent homology, by gudhi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import CapacityError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Diagram:
    """Persistence of one complex.

    `pairs[d]` has the rows (birth, death) of dimension d, those that never die left out; `essential[d]` counts those
    that never die: the Betti number of the whole complex.
    """

    pairs: tuple[Floats, ...]
    essential: tuple[int, ...]

    def lengths(self, dimension: int) -> Floats:
        """death - birth of every class of positive length in a dimension."""
        rows = self.pairs[dimension]
        spans = rows[:, 1] - rows[:, 0]
        return spans[spans > 0]


def flag_complex(nodes: int, source: Any, target: Any, times: Floats | None, dimension: int, limit: float) -> Diagram:
    """Persistent homology, over the field with 11 elements, of the clique complex up to `dimension`.

    Edge k joins source[k] and target[k] and enters at times[k] (0 without times); a node enters with its first edge,
    one without edges at 0; a clique enters with its last edge. Raises CapacityError when the complex would take more
    than `limit` simplices.
    """
    import gudhi

    source, target = (np.asarray(side, np.int64) for side in (source, target))
    entry = np.zeros(len(source)) if times is None else np.asarray(times, np.float64)
    first = np.full(nodes, np.inf)
    np.minimum.at(first, source, entry)
    np.minimum.at(first, target, entry)
    first[~np.isfinite(first)] = 0.0
    triangles = _cliques(nodes, source, target, limit) if dimension > 0 else 0
    if nodes + len(source) + triangles > limit:
        raise CapacityError(
            f"the clique complex has more than {limit:.2g} simplices; raise the setting 'max_simplices' to build it "
            "all the same"
        )
    tree = gudhi.SimplexTree()
    tree.insert_batch(np.arange(nodes).reshape(1, -1), first)
    if len(source):
        tree.insert_batch(np.stack([source, target]), entry)
    tree.expansion(dimension + 1)  # homology in dimension d needs the simplices of dimension d + 1
    if tree.num_simplices() > limit:
        raise CapacityError(f"the clique complex has {tree.num_simplices()} simplices, more than {limit:.2g}")
    tree.compute_persistence(homology_coeff_field=11, min_persistence=-1, persistence_dim_max=True)
    pairs, essential = [], []
    for d in range(dimension + 1):
        rows = np.asarray(tree.persistence_intervals_in_dimension(d), np.float64).reshape(-1, 2)
        lasting = ~np.isfinite(rows[:, 1])
        essential.append(int(lasting.sum()))
        pairs.append(rows[~lasting])
    return Diagram(tuple(pairs), tuple(essential))


def _cliques(nodes: int, source: Any, target: Any, limit: float) -> int:
    """Number of triangles, counted before anything is expanded; `limit` where counting alone takes too long."""
    import scipy.sparse

    degree = np.bincount(source, minlength=nodes) + np.bincount(target, minlength=nodes)
    if float((degree.astype(np.float64) ** 2).sum()) > 1e3 * limit:
        return int(limit)
    ones = np.ones(len(source), np.int64)
    places = np.minimum(source, target), np.maximum(source, target)
    half = scipy.sparse.csr_array((ones, places), shape=(nodes, nodes))
    return int((half @ half).multiply(half).sum())
