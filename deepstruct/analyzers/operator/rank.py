"""Katz, PageRank, eigenvector centrality, hubs and authorities: node scope, through operators."""

from __future__ import annotations

import numpy as np

from deepstruct.analyzers.operator.iteration import Iteration, iteration, once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import passes, rank
from deepstruct.engine.adjacency import ones_on_nodes, symmetric_action
from deepstruct.engine.lanczos import extreme
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.centrality import PAGERANK, damping


def _katz(view: OperatorView) -> Measured:
    view.need_nodes()
    run = iteration(view)
    alpha, note = _alpha(view, run)
    found = rank.katz(view.graph, alpha, steps=run.steps, tolerance=run.tight)
    size = view.dot(found.slots, found.slots) ** 0.5
    if not np.isfinite(size):
        raise MetricError(f"Katz centrality overflows with alpha = {alpha:g}; pass a smaller setting 'katz_alpha'")
    return Measured(
        view.nodes(found.slots / size), exact=False, residual=found.residual, converged=found.converged, note=note
    )


def _alpha(view: OperatorView, run: Iteration) -> tuple[float, str]:
    """The attenuation, and a note that tells it."""
    given = view.context.settings.get("katz_alpha")
    if given is not None:
        return float(given), f"alpha = {float(given):g}"
    ones = ones_on_nodes(view.graph)
    radius = extreme(
        lambda x: symmetric_action(view.graph, x), ones, dot=run.dot, steps=run.steps, tolerance=run.tolerance,
        by_gap=True,
    ).value  # fmt: skip
    alpha = 0.9 / radius if radius > 0 else 0.9
    return alpha, f"alpha = {alpha:.12g} = 0.9 / spectral radius of the undirected graph"


def _pagerank(view: OperatorView) -> Measured:
    view.need_nodes()
    view.need_explicit_units("pagerank")
    run = iteration(view)
    share = damping(view.context.settings)
    degree = passes.out_degree(view.graph)
    found = rank.pagerank(view.graph, degree, share, steps=run.steps, tolerance=run.tight)
    return Measured(
        view.nodes(found.slots), exact=found.exact, residual=found.residual, converged=found.converged,
        note=f"damping {share:g}",
    )  # fmt: skip


def _eigenvector(view: OperatorView) -> Measured:
    view.need_nodes()
    run = iteration(view)
    found = rank.eigenvector(view.graph, steps=run.steps, tolerance=run.tolerance, dot=run.dot)
    values = np.maximum(view.nodes(found.slots), 0)  # rounding below zero is cut
    return Measured(values, exact=False, residual=found.residual, converged=found.converged)


def _hits(view: OperatorView, which: int) -> Measured:
    view.need_nodes()
    if view.graph.num_edges == 0:
        raise MetricError("the graph has no edges: there are neither hubs nor authorities")
    run = iteration(view)
    both = once(
        view, "hits", lambda: rank.hits(view.graph, steps=run.steps, tolerance=run.tolerance, dot=run.dot)
    )
    found = both[which]
    values = np.maximum(view.nodes(found.slots / view.total(found.slots)), 0)
    return Measured(values, exact=False, residual=found.residual, converged=found.converged)


def _node(name: str, compute: object, definition: str, source: str, exact: bool = False) -> Metric:
    assert callable(compute)
    return Metric(
        name, "operator", compute, scope="node", definition=definition, source=source, exact=exact, default=False
    )


_MULTI = "parallel edges count as often as they occur"

METRICS: list[Metric] = [
    _node(
        "katz", _katz,
        "Katz centrality: x = alpha A' x + 1 over the directed in-edges, scaled to Euclidean norm 1; alpha is the "
        f"setting 'katz_alpha', or 0.9 / spectral_radius; {_MULTI}. One pass on an acyclic graph.",
        "Katz 1953; networkx.katz_centrality",
    ),
    _node(
        "pagerank", _pagerank,
        f"{PAGERANK}. Exact, by one pass, on an acyclic graph at the operator analyzer.",
        "Brin & Page 1998; networkx.pagerank", exact=True,
    ),
    _node(
        "eigenvector_centrality", _eigenvector,
        "Eigenvector to the largest eigenvalue of A + A' (direction dropped), Euclidean norm 1; where several "
        f"components share that eigenvalue, the part of the all-ones vector in the eigenspace; {_MULTI}.",
        "Bonacich 1972",
    ),
    _node(
        "hub", lambda view: _hits(view, 0),
        "HITS hub score: top left singular vector of A (edges u -> v), sum 1; of several, the part of the all-ones "
        f"vector in their span; {_MULTI}.",
        "Kleinberg 1999",
    ),
    _node(
        "authority", lambda view: _hits(view, 1),
        "HITS authority score: A' times the hub scores, sum 1; of several top singular vectors, those of the hub "
        f"scores; {_MULTI}.",
        "Kleinberg 1999",
    ),
]  # fmt: skip
