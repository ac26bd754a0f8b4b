"""Spectral density of a symmetric map by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from deepstruct.engine import budget
from deepstruct.engine.lanczos import Apply, Dot, plain_dot, quadrature


@dataclass(frozen=True)
class SpectralDensity:
    """An estimate of the distribution of the eigenvalues from random probes.

    Each probe gives `nodes[p]` with `weights[p]` (they sum to 1), a quadrature of its spectral measure; the
    mean over probes estimates the mean over all eigenvalues.
    """

    nodes: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Estimate of the mean of f over the eigenvalues, and its standard error (0 for a single probe)."""
        values = np.array([float(w @ function(x)) for x, w in zip(self.nodes, self.weights, strict=True)])
        error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
        return float(values.mean()), error

    def on_grid(self, points: int = 201, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(grid, density): a sum of Gaussians of the given standard deviation (default: four grid steps)."""
        low, high = min(x.min() for x in self.nodes), max(x.max() for x in self.nodes)
        span = max(float(high - low), 1e-12)
        width = width or 4 * span / points
        grid = np.linspace(low - 4 * width, high + 4 * width, points)
        density = np.zeros(points)
        for x, w in zip(self.nodes, self.weights, strict=True):
            bumps = np.exp(-0.5 * ((grid[:, None] - x) / width) ** 2) / (width * np.sqrt(2 * np.pi))
            density += bumps @ w
        return grid, density / len(self.nodes)


def spectral_density(
    apply: Apply, mask: torch.Tensor, *, probes: int = 8, steps: int = 60, seed: int = 0, dot: Dot = plain_dot
) -> SpectralDensity:
    """Quadratures of `probes` random sign vectors (Ubaru, Chen & Saad 2017).

    Args:
        mask: boolean per entry, the coordinates that the map lives on.
    """
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = [], []
    for k in range(probes):
        if k and budget.expired():
            break
        signs = torch.randint(0, 2, (mask.numel(),), generator=generator, dtype=torch.float64) * 2 - 1
        x, w = quadrature(apply, signs * mask, dot=dot, steps=steps)
        nodes.append(x)
        weights.append(w)
    return SpectralDensity(tuple(nodes), tuple(weights))
