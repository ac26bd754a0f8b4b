"""Lanczos: extreme eigenvalues and quadratures of symmetric linear maps that are only ever applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from deepstruct.engine import budget

Apply = Callable[[torch.Tensor], torch.Tensor]
Dot = Callable[[torch.Tensor, torch.Tensor], float]

KEEP_BYTES = 256 << 20  # Lanczos vectors are kept, and kept orthogonal, while they fit


@dataclass(frozen=True)
class Ritz:
    """An approximate eigenpair: some eigenvalue of the map lies within `residual` of `value` (see `extreme`)."""

    value: float
    residual: float
    converged: bool
    steps: int
    vector: torch.Tensor | None = None


def plain_dot(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.dot(left, right))


def extreme(
    apply: Apply, start: torch.Tensor, *, end: Literal["largest", "smallest"] = "largest", dot: Dot = plain_dot,
    deflate: Sequence[torch.Tensor] = (), steps: int = 300, tolerance: float = 1e-8,
    accept: Callable[[float], float] | None = None, vector: bool = False, by_gap: bool = False,
) -> Ritz:  # fmt: skip
    """The largest or smallest eigenvalue of a symmetric map on the Krylov space of `start`.

    Args:
        apply: the map; symmetric under `dot`.
        start: any vector with a part in the eigenspace; its part along `deflate` is taken away.
        dot: inner product.
        deflate: orthonormal vectors (under `dot`) that span an invariant subspace to leave out.
        steps: applications of the map at most.
        tolerance: relative to the largest Ritz value in magnitude.
        accept: the absolute residual that is small enough for a value, in place of `tolerance`.
        vector: whether to return a unit eigenvector.
        by_gap: where the value alone is wanted. It is closer than the residual r: by r^2 / gap (Kato 1949, Temple
            1928), gap being the distance to the rest of the spectrum. The next Ritz value stands for that here, so the
            bound, which then is the residual, is an estimate.

    Returns:
        value 0 with residual 0 when nothing is left of `start`.
    """
    run = _Recurrence(apply, start, dot, deflate, keep=start.numel() * steps * start.element_size() <= KEEP_BYTES)
    if run.done:
        return Ritz(0.0, 0.0, True, 0, torch.zeros_like(start) if vector else None)
    value = residual = math.nan
    weights = np.ones(1)
    converged = False
    for step in range(1, steps + 1):
        run.advance()
        if not (run.done or step <= 8 or step % 4 == 0 or step == steps or budget.expired()):
            continue
        values, vectors = run.tridiagonal()
        pick = int(np.argmax(values)) if end == "largest" else int(np.argmin(values))
        scale = float(np.abs(values).max())
        value, weights = float(values[pick]), vectors[:, pick]
        residual = float(run.betas[-1] * abs(weights[-1]))
        if by_gap and len(values) > 2:
            gap = float(np.delete(np.abs(values - value), pick).min())
            residual = residual * min(1.0, residual / gap) if gap > 0 else residual
        small = accept(value) if accept is not None else tolerance * scale
        converged = residual <= max(small, 1e-14 * scale) or run.done
        if converged or budget.expired():
            break
    found = run.combine(weights, apply, start, dot, deflate) if vector else None
    return Ritz(value, residual, converged, len(run.alphas), found)


class _Recurrence:
    """The three-term recurrence; with `keep`, full reorthogonalization."""

    def __init__(
        self, apply: Apply, start: torch.Tensor, dot: Dot, deflate: Sequence[torch.Tensor], *, keep: bool
    ) -> None:
        self.apply, self.dot, self.deflate = apply, dot, deflate
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.before: torch.Tensor | None = None
        here = _without(_without(start.clone(), deflate, dot), deflate, dot)
        size, whole = math.sqrt(max(dot(here, here), 0.0)), math.sqrt(max(dot(start, start), 0.0))
        self.done = size <= 1e-12 * whole
        self.here = here if self.done else here / size
        self.kept: _Basis | None = _Basis(self.here, dot) if keep else None

    def advance(self) -> None:
        """One more application, one more row of the tridiagonal matrix."""
        new = self.apply(self.here)
        if self.before is not None:
            new = new.sub_(self.before, alpha=self.betas[-1])
        alpha = self.dot(new, self.here)
        new = _without(new.sub_(self.here, alpha=alpha), self.deflate, self.dot)
        if self.kept is not None:
            new = self.kept.take_away(new)
        beta = math.sqrt(max(self.dot(new, new), 0.0))
        self.alphas.append(alpha)
        self.betas.append(beta)
        scale = max(max(map(abs, self.alphas)), max(self.betas[:-1], default=0.0))
        self.done = beta <= 1e-12 * scale or beta == 0.0
        if not self.done:
            self.before, self.here = self.here, new.div_(beta)
            if self.kept is not None:
                self.kept.append(self.here)

    def tridiagonal(self) -> tuple[np.ndarray, np.ndarray]:
        """Ritz values, ascending, and the vectors of the tridiagonal matrix."""
        from scipy.linalg import eigh_tridiagonal

        values, vectors = eigh_tridiagonal(np.array(self.alphas), np.array(self.betas[:-1]))
        return values, vectors

    def combine(
        self, weights: np.ndarray, apply: Apply, start: torch.Tensor, dot: Dot, deflate: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The Ritz vector; Lanczos vectors that were not kept are made a second time."""
        out = torch.zeros_like(start)
        if self.kept is not None:
            out = self.kept.combine(weights)
        else:
            again = _Recurrence(apply, start, dot, deflate, keep=False)
            for weight in weights.tolist():
                out.add_(again.here, alpha=weight)
                again.advance()
        return out / math.sqrt(dot(out, out))


class _Basis:
    """Orthonormal vectors as the rows of a matrix that grows."""

    def __init__(self, first: torch.Tensor, dot: Dot) -> None:
        self.rows, self.count, self.dot = first[None].clone(), 1, dot

    def append(self, vector: torch.Tensor) -> None:
        if self.count == len(self.rows):
            self.rows = torch.cat([self.rows, torch.empty_like(self.rows)])
        self.rows[self.count] = vector
        self.count += 1

    def take_away(self, vector: torch.Tensor) -> torch.Tensor:
        """The vector less its part in the span (twice is enough), in place."""
        rows = self.rows[: self.count]
        for _ in range(2):
            if self.dot is plain_dot:
                vector -= (rows @ vector) @ rows
            else:
                _without(vector, list(rows), self.dot)
        return vector

    def combine(self, weights: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(weights) @ self.rows[: len(weights)]


def _without(vector: torch.Tensor, others: Sequence[torch.Tensor], dot: Dot) -> torch.Tensor:
    """The vector less its parts along orthonormal others, in place."""
    for other in others:
        vector.sub_(other, alpha=dot(other, vector))
    return vector


def quadrature(apply: Apply, start: torch.Tensor, *, dot: Dot = plain_dot, steps: int = 60) -> tuple[np.ndarray, ...]:
    """Gauss quadrature of the spectral measure of a vector: (nodes, weights that sum to 1).

    sum(weights * f(nodes)) estimates v' f(A) v for the unit vector v along `start`, exactly for polynomials
    of degree up to 2 * steps - 1.
    """
    run = _Recurrence(apply, start, dot, (), keep=start.numel() * steps * start.element_size() <= KEEP_BYTES)
    while not run.done and len(run.alphas) < steps:
        run.advance()
    if not run.alphas:
        return np.zeros(1), np.ones(1)
    values, vectors = run.tridiagonal()
    return values, vectors[0] ** 2
