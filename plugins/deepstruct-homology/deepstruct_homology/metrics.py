"""Betti numbers beyond one, and neural persistence of the whole network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import MetricError
from deepstruct.metrics.base import Metric, Setting
from deepstruct_homology.complex import Diagram, flag_complex

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView

LIMIT = Setting("max_simplices", 2e6, "Simplices of a clique complex, at most (deepstruct-homology).")
TOP = 3
"""Highest dimension of homology that is computed."""

RIECK = "Rieck et al. 2019 (neural persistence)"
FLAG = "of the clique complex of the graph without directions, parallel edges and self-loops"
WEIGHTS = (
    "Filtration: an edge enters at 1 - |w| / max |w|, the largest over the whole network; of parallel edges the "
    "strongest; structural edges enter at 0; a node with its first edge; a clique with its last edge."
)


def _limit(view: IgraphView) -> float:
    return float(view.context.settings.get(LIMIT.name, LIMIT.default))


def _plain(view: IgraphView) -> Diagram:
    """The complex without weights: only classes that never die."""

    def compute() -> Diagram:
        view.need_nodes()
        return flag_complex(view.num_nodes, *view.undirected_pairs, None, TOP, _limit(view))

    return view.once("homology: plain", compute)


def _weighted(view: IgraphView) -> Diagram:
    """The complex filtered by weights, strongest first."""

    def compute() -> Diagram:
        view.need_nodes()
        low, high = view.undirected_pairs
        return flag_complex(view.num_nodes, low, high, _times(view, low, high), 1, _limit(view))

    return view.once("homology: weighted", compute)


def _times(view: IgraphView, low: Any, high: Any) -> Any:
    """When each undirected pair enters, from 0 (strongest) to 1."""
    strength = np.abs(view.edges.weight)
    largest = float(np.nanmax(strength, initial=0.0)) if len(strength) else 0.0
    if not bool(view.weighted.any()) or largest == 0:
        raise MetricError("no edge has a weight")
    scaled = np.where(np.isnan(strength), 1.0, strength / largest)
    n = view.num_nodes
    source, target = np.asarray(view.edges.source, np.int64), np.asarray(view.edges.target, np.int64)
    keys = np.minimum(source, target) * n + np.maximum(source, target)
    wanted = np.asarray(low, np.int64) * n + np.asarray(high, np.int64)
    place = np.searchsorted(wanted, keys)
    best = np.zeros(len(wanted))
    proper = source != target
    np.maximum.at(best, place[proper], scaled[proper])
    return 1.0 - best


def _betti(dimension: int) -> Callable[[IgraphView], int]:
    return lambda view: _plain(view).essential[dimension]


def _euler(view: IgraphView) -> int:
    """Alternating sum of the Betti numbers that are computed."""
    found = _plain(view)
    return sum((-1) ** d * count for d, count in enumerate(found.essential))


def _total(dimension: int) -> Callable[[IgraphView], float]:
    return lambda view: float(np.linalg.norm(_weighted(view).lengths(dimension)))


def _neural(view: IgraphView) -> float:
    """2-norm of the deaths in dimension 0, over what it could be at most; nodes count as born at 0."""
    found = _weighted(view)
    joined = view.num_nodes - found.essential[0]
    if joined == 0:
        raise MetricError("no two nodes of the graph are joined by an edge")
    deaths = found.pairs[0][:, 1]  # the entry times of a spanning forest's edges
    return float(np.linalg.norm(deaths) / np.sqrt(joined))


def _entropy(dimension: int) -> Callable[[IgraphView], float]:
    def compute(view: IgraphView) -> float:
        spans = _weighted(view).lengths(dimension)
        if spans.sum() == 0:
            raise MetricError(f"no class of dimension {dimension} lives for any time")
        shares = spans / spans.sum()
        return max(0.0, float(-(shares * np.log2(shares)).sum()))

    return compute


def _metric(name: str, compute: Callable[[Any], Any], definition: str, source: str = "", **options: Any) -> Metric:
    return Metric(
        name, "igraph", compute, definition=definition, source=source, default=False, settings=(LIMIT,), **options
    )


_ANY = (0, float("inf"))
METRICS = [
    *(
        _metric(f"flag_betti_{d}", _betti(d), f"Betti number in dimension {d} {FLAG}.", bounds=_ANY)
        for d in range(TOP + 1)
    ),
    _metric("flag_euler", _euler, f"Alternating sum of flag_betti_0 to flag_betti_{TOP}, {FLAG}."),
    _metric(
        "network_neural_persistence", _neural,
        "2-norm of the entry times of a minimum spanning forest's edges, over the root of their number. "
        f"{WEIGHTS} That is neural persistence with the whole network as one layer, without the class that never dies.",
        RIECK, bounds=(0, 1), orders=("zeroth", "first"),
    ),
    *(
        _metric(
            f"flag_total_persistence_{d}", _total(d),
            f"2-norm of death - birth over the classes of dimension {d} that die. {WEIGHTS}",
            "Edelsbrunner and Harer 2010", bounds=_ANY, orders=("zeroth", "first"),
        )
        for d in (0, 1)
    ),
    *(
        _metric(
            f"flag_persistence_entropy_{d}", _entropy(d),
            f"Shannon entropy, in bits, of the shares of death - birth in dimension {d}. {WEIGHTS}",
            "Chintakunta et al. 2015", bounds=_ANY, orders=("zeroth", "first"),
        )
        for d in (0, 1)
    ),
]  # fmt: skip
