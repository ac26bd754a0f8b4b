"""How much of a network survives when hidden nodes are taken out: percolation and attack curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.engine import budget
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured
from deepstruct.metrics.table import no_path, on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

Removals = list[npt.NDArray[np.int64]]
SCHNEIDER = "Schneider et al. 2011 (to be checked)"


@dataclass(frozen=True)
class Plan:
    """Which shares of the hidden nodes go, how often it is repeated, and with which random numbers."""

    fractions: tuple[float, ...]
    repeats: int
    seed: int

    def removals(self, hidden: npt.NDArray[np.bool_], score: npt.NDArray[Any] | None) -> Removals:
        """Node ids to take out, for every repeat and fraction (the fractions of one repeat follow each other).

        Args:
            hidden: boolean per node, nodes that may go.
            score: per node; the highest go first, and those of equal score in random order. None: all at random.
        """
        ids = np.flatnonzero(hidden)
        if len(ids) == 0:
            raise MetricError("the graph has no hidden nodes to take out")
        out: Removals = []
        for repeat in range(self.repeats):
            order = np.random.default_rng((self.seed, repeat)).permutation(ids)
            if score is not None:
                order = order[np.argsort(-score[order].astype(np.float64), kind="stable")]
            out += [order[: round(fraction * len(ids))] for fraction in self.fractions]
        return out

    def area(self, left: list[int], whole: int) -> Measured:
        """Mean over the curve of what is left as a share of `whole`, averaged over the repeats."""
        curves = np.array(left, np.float64).reshape(self.repeats, len(self.fractions)) / whole
        areas = curves.mean(1)
        error = float(areas.std(ddof=1) / np.sqrt(self.repeats)) if self.repeats > 1 else None
        steps = ", ".join(f"{f:g}: {v:.4g}" for f, v in zip(self.fractions, curves.mean(0), strict=True))
        note = f"share left by fraction taken out ({steps}); {self.repeats} repeats, the residual is the standard error"
        return Measured(float(areas.mean()), exact=False, residual=error, note=note)


def plan(settings: Mapping[str, Any]) -> Plan:
    """The settings "removal_fractions", "removal_repeats" and "removal_seed". Raises MetricError for nonsense."""
    given = settings.get("removal_fractions", tuple(k / 10 for k in range(1, 10)))
    try:
        fractions = tuple(float(f) for f in given)
    except (TypeError, ValueError):
        fractions = ()
    if not fractions or not all(0 < f <= 1 for f in fractions) or list(fractions) != sorted(fractions):
        raise MetricError(
            f"the setting 'removal_fractions' is {given!r}: give shares above 0 and up to 1 in ascending order"
        )
    repeats = int(settings.get("removal_repeats", 8))
    if repeats < 1:
        raise MetricError(f"the setting 'removal_repeats' is {repeats}: give 1 or more")
    return Plan(fractions, repeats, int(settings.get("removal_seed", 0)))


# -- on explicit graphs


def _kept(view: Any, removed: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    kept = np.ones(view.num_nodes, bool)
    kept[removed] = False
    return kept


def _degree(view: Any) -> npt.NDArray[np.int64]:
    """Edges at each node, parallel ones counted."""
    edges, n = view.edges, view.num_nodes
    return np.bincount(edges.source, minlength=n) + np.bincount(edges.target, minlength=n)


def _reduced_igraph(view: IgraphView, kept: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return view.effective_among(kept)


def _reduced_networkx(view: NetworkxView, kept: npt.NDArray[np.bool_]) -> tuple[int, int]:
    import networkx as nx

    graph = view.multigraph.subgraph(np.flatnonzero(kept).tolist())
    ahead, back = set(view.input_nodes), set(view.output_nodes)
    for node in view.input_nodes:
        ahead |= nx.descendants(graph, node)
    for node in view.output_nodes:
        back |= nx.ancestors(graph, node)
    alive = ahead & back
    return len(alive), sum(u in alive and v in alive for u, v in graph.edges())


def _component_igraph(view: IgraphView, kept: npt.NDArray[np.bool_]) -> int:
    part = view.simple.induced_subgraph(np.flatnonzero(kept).tolist())
    return max(part.connected_components().sizes(), default=0)


def _component_networkx(view: NetworkxView, kept: npt.NDArray[np.bool_]) -> int:
    import networkx as nx

    return max(map(len, nx.connected_components(view.simple.subgraph(np.flatnonzero(kept).tolist()))), default=0)


def _curve(left: Callable[[Any, npt.NDArray[np.bool_]], int], attack: bool, nodes: bool) -> Callable[[Any], Measured]:
    """R of what `left` counts. `nodes`: as a share of all nodes, else of what it counts in the whole graph."""

    def compute(view: Any) -> Measured:
        view.need_nodes()
        how = plan(view.context.settings)
        removed = how.removals(view.hidden, _degree(view) if attack else None)
        view.spend(float(len(removed)) * (view.num_nodes + view.num_edges), "the removal of nodes")
        whole = view.num_nodes if nodes else left(view, np.ones(view.num_nodes, bool))
        if whole == 0:
            raise no_path() if not nodes else MetricError("the graph has no nodes")
        counts = []
        for ids in removed:
            budget.check()
            counts.append(left(view, _kept(view, ids)))
        return how.area(counts, whole)

    return compute


ORDERS_OF_REMOVAL = {
    "random": "in random order",
    "degree": "by degree in the intact graph (parallel edges counted, ties in random order), highest first",
    "paths": "by path centrality in the intact graph (input-output paths through the node, ties in random order), "
             "highest first",
    "betweenness": "by betweenness in the intact graph (directed, parallel edges make different paths, from sampled "
                   "sources: settings 'samples', 64, and 'sample_seed'; ties in random order), highest first",
}  # fmt: skip
COUNTED = {
    "": "effective nodes left, as a share of those of the intact graph",
    "edges_": "effective edges left, as a share of those of the intact graph",
    "component_": "nodes in the largest weakly connected component left, as a share of all nodes",
}


def definition(counted: str, order: str) -> str:
    """R of one quantity under one order of removal."""
    return (
        f"Area R under the attack curve: mean over the fractions removed (setting 'removal_fractions') of the "
        f"{COUNTED[counted]}, when that fraction of the hidden nodes is taken out {ORDERS_OF_REMOVAL[order]}; mean "
        "over seeded repeats (settings 'removal_repeats', 'removal_seed'); the note has the curve."
    )


def _first(reduced: Callable[[Any, Any], tuple[int, int]], which: int) -> Callable[[Any, Any], int]:
    return lambda view, kept: reduced(view, kept)[which]


METRICS = [
    metric
    for order in ("random", "degree")
    for counted, igraph, networkx in (
        ("", _first(_reduced_igraph, 0), _first(_reduced_networkx, 0)),
        ("edges_", _first(_reduced_igraph, 1), _first(_reduced_networkx, 1)),
        ("component_", _component_igraph, _component_networkx),
    )
    for metric in on_both(
        f"robustness_{counted}{order}",
        definition(counted, order),
        igraph=_curve(igraph, order == "degree", counted == "component_"),
        networkx=_curve(networkx, order == "degree", counted == "component_"),
        source=SCHNEIDER,
        exact=False,
        default=False,
    )
]
