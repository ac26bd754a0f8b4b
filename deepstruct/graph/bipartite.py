"""Regular bipartite graphs as masks, and how well they expand."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from deepstruct.errors import CapacityError, InputError

Seed = int | np.random.Generator | None


class BipartiteExpansion(NamedTuple):
    """How well a bipartite graph expands.

    Attributes:
        first, second: its two largest singular values.
        bound: sqrt(d_left - 1) + sqrt(d_right - 1), of the mean degrees of either side.
        ramanujan: whether the second value is within the bound (exactly regular graphs only attain the
            definition of Hoory, Linial and Wigderson, 2006; for others it is the usual extension by means).
        regular: whether all degrees of a side are equal.
    """

    first: float
    second: float
    bound: float
    ramanujan: bool
    regular: bool


def random_regular_bipartite(rows: int, cols: int, degree: int, *, seed: Seed = None) -> np.ndarray:
    """A boolean mask (rows, cols): `degree` entries in every row, columns as even as can be.

    Every column has rows * degree / cols entries, or one of the two integers next to it. Drawn by the
    configuration model; double edges are removed by random switches.
    """
    if rows < 1 or cols < 1 or not 0 <= degree <= cols:
        raise InputError(f"no mask of shape ({rows}, {cols}) with {degree} entries in each row")
    rng = np.random.default_rng(seed)
    total = rows * degree
    extra = rng.permutation(cols)[: total % cols]
    counts = np.full(cols, total // cols)
    counts[extra] += 1
    ends = rng.permutation(np.repeat(np.arange(cols), counts)).reshape(rows, degree)
    mask = np.zeros((rows, cols), dtype=bool)
    np.put_along_axis(mask, ends, True, axis=1)
    for row in np.flatnonzero(mask.sum(1) < degree).tolist():
        _repair(ends, row, rng)
    mask[:] = False
    np.put_along_axis(mask, ends, True, axis=1)
    return mask


def _repair(ends: np.ndarray, row: int, rng: np.random.Generator) -> None:
    """Switch every double end of a row with one of another row, such that neither has a new double."""
    own = ends[row]
    for place in range(len(own)):
        if (own == own[place]).sum() == 1:
            continue
        for other in rng.permutation(len(ends)).tolist():
            theirs = ends[other]
            if other == row or (theirs == own[place]).any():
                continue
            fits = np.flatnonzero(~np.isin(theirs, own))
            if len(fits):
                there = int(rng.choice(fits))
                own[place], theirs[there] = theirs[there], own[place]
                break


def expansion(mask: np.ndarray) -> BipartiteExpansion:
    """The singular values of a mask (rows, cols) against the Ramanujan bound."""
    matrix = np.asarray(mask, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise InputError(f"a mask has two axes and at least one entry, got shape {matrix.shape}")
    if min(matrix.shape) > 64:
        from scipy.sparse import csr_array
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(0).standard_normal(min(matrix.shape))
        values = np.sort(svds(csr_array(matrix), k=2, return_singular_vectors=False, v0=start))[::-1]
    else:
        values = np.linalg.svd(matrix, compute_uv=False)
    first, second = (float(v) for v in (*values, 0.0)[:2])
    degrees = matrix.sum(1), matrix.sum(0)
    bound = sum(math.sqrt(max(float(d.mean()) - 1, 0)) for d in degrees)
    return BipartiteExpansion(
        first, second, bound, second <= bound * (1 + 1e-12) + 1e-12, all(bool((d == d[0]).all()) for d in degrees)
    )


def ramanujan_bipartite(rows: int, cols: int, degree: int, *, seed: Seed = None, tries: int = 100) -> np.ndarray:
    """A random regular mask whose second singular value is within the Ramanujan bound.

    Random regular graphs often are, so they are drawn until one is. Raises CapacityError when `tries` draws
    had none; then the best one was as near as the message says.
    """
    rng = np.random.default_rng(seed)
    best = math.inf
    for _ in range(tries):
        mask = random_regular_bipartite(rows, cols, degree, seed=rng)
        found = expansion(mask)
        if found.ramanujan:
            return mask
        best = min(best, found.second / found.bound if found.bound else math.inf)
    raise CapacityError(
        f"none of {tries} random masks ({rows}, {cols}) with {degree} entries in each row is Ramanujan; the best "
        f"one is {best:.3f} times over the bound: raise tries, or the degree"
    )
