"""How the eigenvalues of the whole graph are distributed, by stochastic Lanczos quadrature."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import iteration
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import passes
from deepstruct.engine.adjacency import has_vector_entry, symmetric_action
from deepstruct.engine.density import SpectralDensity, spectral_density
from deepstruct.engine.lanczos import Apply
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric

_STEPS = 60  # Lanczos steps of each probe, at most


def _adjacency(view: OperatorView) -> Apply:
    return lambda x: symmetric_action(view.graph, x)


def _laplacian(view: OperatorView) -> Apply:
    """I - D^-1/2 (A + A') D^-1/2 on the nodes that have edges, 0 on the others."""
    degree = passes.in_degree(view.graph) + passes.out_degree(view.graph)
    joined = has_vector_entry(view.graph) & (degree > 0)
    root = torch.where(joined, degree.clamp(min=1).rsqrt(), 0.0)
    return lambda x: x * joined - root * symmetric_action(view.graph, root * x)


def _histogram(found: SpectralDensity, low: float, high: float, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(bounds, share of the eigenvalues in each bin, standard error over the probes; NaN for a single one)."""
    bounds = np.linspace(low, high, bins + 1)
    probes = zip(found.nodes, found.weights, strict=True)
    each = np.array([np.histogram(np.clip(x, low, high), bounds, weights=w)[0] for x, w in probes])
    count = len(each)
    error = each.std(0, ddof=1) / count**0.5 if count > 1 else np.full(bins, np.nan)
    return bounds, each.mean(0), error


def _density(action: Callable[[OperatorView], Apply], bounded: bool) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        view.need_nodes()
        view.need_explicit_units("the density of eigenvalues")
        run, settings = iteration(view), view.context.settings
        probes, bins = int(settings.get("probes", 8)), int(settings.get("density_bins", 21))
        if probes < 1 or bins < 1:
            raise MetricError(f"the settings 'probes' and 'density_bins' are {probes} and {bins}: give 1 or more")
        found = spectral_density(
            action(view), has_vector_entry(view.graph), probes=probes, steps=min(run.steps, _STEPS), seed=run.seed
        )
        top = max(max(abs(float(x.min())), abs(float(x.max()))) for x in found.nodes) or 1.0
        bounds, share, error = _histogram(found, 0.0 if bounded else -top, 2.0 if bounded else top, bins)
        known = not bool(np.isnan(error).any())
        value = {"bounds": bounds.tolist(), "share": share.tolist(), "error": error.tolist() if known else None}
        return Measured(
            json.dumps(value), exact=False, residual=float(error.max()) if known else None,
            converged=len(found.nodes) == probes,
            note=f"{len(found.nodes)} random probes of at most {_STEPS} Lanczos steps; the residual is the largest "
            "standard error of a bin",
        )  # fmt: skip

    return compute


_FORM = (
    "as a JSON object: bounds of equal bins (setting 'density_bins', 21), the share of the eigenvalues in each, and "
    "its standard error over random probes (setting 'probes', 8); by Lanczos quadrature of 60 steps, which blurs what "
    "is closer than that resolves"
)
_SOURCE = "Ubaru, Chen & Saad 2017; Lin, Saad & Yang 2016"

METRICS: list[Metric] = [
    Metric("spectral_density", "operator", _density(_adjacency, bounded=False), source=_SOURCE, exact=False,
           default=False, requires=("nonempty",),
           definition="Distribution of the eigenvalues of A + A' (direction dropped, parallel edges counted as often "
                      f"as they occur, structural edges weigh 1), {_FORM}."),
    Metric("normalized_laplacian_density", "operator", _density(_laplacian, bounded=True), source=_SOURCE, exact=False,
           default=False, requires=("nonempty",),
           definition="Distribution of the eigenvalues, between 0 and 2, of I - D^-1/2 (A + A') D^-1/2 (rows of nodes "
                      f"without edges are 0), {_FORM}."),
]  # fmt: skip
