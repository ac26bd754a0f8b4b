"""Attack curves by taking nodes out of the explicit graph, one removal after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepstruct.metrics.robustness import plan
from tests.brute.explicit import Explicit
from tests.brute.of_graph import _betweenness

SETTINGS: dict[str, Any] = {"removal_fractions": (0.2, 0.6), "removal_repeats": 2}


def _left(e: Explicit, gone: np.ndarray) -> tuple[int, int]:
    """Effective nodes and edges without some nodes."""
    kept = np.ones(e.n, bool)
    kept[gone] = False
    edges = [(u, v) for u, v in zip(e.s.tolist(), e.t.tolist(), strict=True) if kept[u] and kept[v]]
    place = {v: k for k, v in enumerate(e.order)}
    edges.sort(key=lambda pair: place[pair[0]])
    ahead, back = (np.zeros(e.n, bool) for _ in range(2))
    ahead[sorted(e.inputs)] = back[sorted(e.outputs)] = True
    ahead &= kept
    back &= kept
    for u, v in edges:
        ahead[v] |= ahead[u]
    for u, v in sorted(edges, key=lambda pair: place[pair[1]], reverse=True):
        back[u] |= back[v]
    both = ahead & back
    return int(both.sum()), sum(bool(both[u] and both[v]) for u, v in edges)


def curves(e: Explicit) -> dict[str, float | None]:
    """All attack curves; None without a path from an input to an output."""
    how, out = plan(SETTINGS), {}
    through = [a * b for a, b in zip(e.from_inputs(), e.onward(), strict=True)]
    rank = {count: k for k, count in enumerate(sorted(set(through)))}
    scores = {
        "random": None, "degree": e.din + e.dout, "paths": np.array([rank[count] for count in through]),
        "betweenness": _betweenness(e).round(6),
    }  # fmt: skip
    whole = _left(e, np.empty(0, np.int64))
    for order, score in scores.items():
        left = [_left(e, gone) for gone in how.removals(e.hidden, score)]
        for which, counted in enumerate(("", "edges_")):
            value = float(np.mean([pair[which] for pair in left]) / whole[which]) if whole[which] else None
            out[f"robustness_{counted}{order}"] = value
    return out
