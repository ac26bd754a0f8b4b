"""Eigenvalues of the whole graph: adjacency, Laplacians, spectral moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.iteration import iteration, once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import passes
from deepstruct.engine.adjacency import has_vector_entry, symmetric_action
from deepstruct.engine.density import spectral_density
from deepstruct.engine.lanczos import Ritz, extreme
from deepstruct.engine.laplacian import Giant, algebraic_connectivity, giant_component, laplacian_radius, normalized_gap
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric


def _measured(view: OperatorView, found: Ritz, value: float | None = None, note: str = "") -> Measured:
    return Measured(
        found.value if value is None else value, exact=False, residual=found.residual, converged=found.converged,
        note=note or f"{found.steps} Lanczos steps",
    )  # fmt: skip


def _spectral_radius(view: OperatorView) -> Measured:
    view.need_nodes()
    run = iteration(view)
    found = extreme(
        lambda x: symmetric_action(view.graph, x), run.start(view, positive=True), dot=run.dot, steps=run.steps,
        tolerance=run.tolerance, by_gap=True,
    )  # fmt: skip
    return _measured(view, found, note=f"{found.steps} Lanczos steps; the residual is r^2 / gap")


def _degree(view: OperatorView) -> torch.Tensor:
    def compute() -> torch.Tensor:
        return (passes.in_degree(view.graph) + passes.out_degree(view.graph)) * has_vector_entry(view.graph)

    return once(view, "degree over slots", compute)


def _giant(view: OperatorView, what: str) -> Giant:
    view.need_nodes()
    view.need_explicit_units(what)
    if view.graph.num_edges == 0:
        raise MetricError("the graph has no edges: no component has more than one node")
    return once(view, "giant component", lambda: giant_component(view.graph, _degree(view)))


def _giant_note(giant: Giant, found: Ritz) -> str:
    return f"giant component of {giant.size} nodes; {found.steps} Lanczos steps"


def _algebraic_connectivity(view: OperatorView) -> Measured:
    giant = _giant(view, "algebraic_connectivity")
    run = iteration(view)
    found = algebraic_connectivity(view.graph, giant, run.start(view), steps=run.steps, tolerance=run.tolerance)
    return _measured(view, found, note=_giant_note(giant, found))


def _laplacian_radius(view: OperatorView) -> Measured:
    view.need_nodes()
    view.need_explicit_units("laplacian_spectral_radius")
    run = iteration(view)
    found = laplacian_radius(view.graph, _degree(view), run.start(view), steps=run.steps, tolerance=run.tolerance)
    return _measured(view, found)


def _normalized(bound: Callable[[float], float]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        giant = _giant(view, "the normalized Laplacian")
        run = iteration(view)
        found = once(
            view, "normalized gap",
            lambda: normalized_gap(view.graph, giant, run.start(view), steps=run.steps, tolerance=run.tolerance),
        )  # fmt: skip
        return _measured(view, found, bound(max(found.value, 0.0)), _giant_note(giant, found))

    return compute


def _moment(power: int) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        view.need_nodes()
        what = f"spectral_moment_{power}"
        view.need_explicit_units(what)
        run = iteration(view)
        probes = int(view.context.settings.get("probes", 8))
        found = spectral_density(
            lambda x: symmetric_action(view.graph, x), has_vector_entry(view.graph), probes=probes,
            steps=power // 2 + 1, seed=run.seed,
        )  # fmt: skip
        mean, error = found.mean(lambda x: np.asarray(x**power))
        return Measured(
            mean, exact=False, residual=error, converged=len(found.nodes) == probes,
            note=f"{len(found.nodes)} random probes; the residual is the standard error",
        )  # fmt: skip

    return compute


def _graph(name: str, compute: Callable[[Any], Any], definition: str, source: str = "") -> Metric:
    return Metric(name, "operator", compute, definition=definition, source=source, exact=False, default=False)


_UNDIRECTED = "direction dropped, parallel edges counted as often as they occur, structural edges weigh 1"
_GIANT = f"in the largest weakly connected component ({_UNDIRECTED}); its size is in the note"

METRICS: list[Metric] = [
    _graph("spectral_radius", _spectral_radius,
           f"Largest eigenvalue of the adjacency matrix A + A' ({_UNDIRECTED}), by Lanczos."),
    _graph("laplacian_spectral_radius", _laplacian_radius,
           f"Largest eigenvalue of the Laplacian D - A - A' ({_UNDIRECTED}), by Lanczos."),
    _graph("algebraic_connectivity", _algebraic_connectivity,
           f"Second smallest eigenvalue of the Laplacian D - A - A' {_GIANT}; by Lanczos.", "Fiedler 1973"),
    _graph("normalized_algebraic_connectivity", _normalized(lambda value: value),
           f"lambda_2, second smallest eigenvalue of I - D^-1/2 (A + A') D^-1/2 {_GIANT}; by Lanczos.", "Chung 1997"),
    _graph("cheeger_lower", _normalized(lambda value: value / 2),
           f"lambda_2 / 2, a lower bound of the conductance {_GIANT}.", "Cheeger's inequality; Chung 1997"),
    _graph("cheeger_upper", _normalized(lambda value: (2 * value) ** 0.5),
           f"sqrt(2 lambda_2), an upper bound of the conductance {_GIANT}.", "Cheeger's inequality; Chung 1997"),
    *(_graph(f"spectral_moment_{power}", _moment(power),
             f"Mean over the eigenvalues of A + A' of their power {power}, which is closed walks of length {power} "
             f"per node ({_UNDIRECTED}); Lanczos quadrature of random probes (setting 'probes', 8).",
             "Ubaru, Chen & Saad 2017") for power in (4, 6)),
]  # fmt: skip
