"""Every metric of the operator analyzer against brute force on the explicit edges of 300 random nets.

Each net is extracted once. What is cheap is compared on every net, what is not on one in so many; a metric that
nothing here knows fails the last test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext, Measured
from deepstruct.plugin.current import get_host
from tests.brute import of_graph, of_layers, of_removal
from tests.brute.explicit import Explicit

CHUNKS, NETS = 15, 300
METRICS = {m.name: m for m in get_host().registry().metrics if m.analyzer == "operator"}
# what is estimated by a package or by chance, and tested on its own
ELSEWHERE = {
    "tests/analyzers/test_operator_families.py": ["power_law_alpha", "power_law_xmin", "power_law_distance",
                                                  "power_law_vs_exponential", "power_law_vs_lognormal"],
    "tests/engine/test_layer_spectra.py": ["layer_alpha", "alpha_mean", "layer_alpha_hat", "alpha_hat_mean"],
    "tests/engine/test_spectral.py": ["spectral_moment_4", "spectral_moment_6"],
    "tests/brute/test_density.py": ["spectral_density", "normalized_laplacian_density"],
    "tests/engine/test_partition.py": ["clusterability"],
    "tests/engine/test_edge_shares.py": ["edge_path_centrality_max", "edge_path_centrality_top",
                                         "layer_edge_path_centrality", "layer_edge_path_centrality_max",
                                         "layer_weight_path_centrality_max", "layer_weight_path_centrality_top"],
    "tests/engine/test_signals.py": ["activation_strength", "layer_activation_strength_mean",
                                     "layer_activation_fluctuation"],
    "tests/metrics/test_homology.py": [f"{scope}{kind}_persistence{end}" for scope, kind in (
        ("", "neural"), ("layer_", "neural"), ("layer_", "total")) for end in ("", "_finite")],
}  # fmt: skip

Expected = dict[str, Any]


def _each(table: dict[str, Callable[[Explicit], Any]]) -> Callable[[Explicit], Expected]:
    return lambda e: {name: compute(e) for name, compute in table.items()}


# (witnesses, one net in so many, nodes at most, relative error)
FAMILIES: dict[str, tuple[Callable[[Explicit], Expected], int, int, float]] = {
    "sizes": (_each(of_graph.SIZES), 1, 3000, 1e-9),
    "layers": (_each(of_layers.SIZES), 1, 3000, 1e-8),
    "paths": (_each(of_graph.PATHS), 2, 3000, 1e-8),
    "channels": (_each(of_layers.CHANNELS), 3, 300, 1e-9),
    "cycles": (_each(of_layers.CYCLES), 3, 300, 1e-9),
    "stored": (of_layers.stored, 3, 300, 1e-6),
    "kernels": (lambda e: of_layers.ramanujan(e, "kernel_"), 3, 300, 1e-5),
    "hubs": (_each(of_layers.HUBS), 4, 300, 1e-4),
    "others": (_each(of_graph.OTHERS), 8, 300, 1e-9),
    "persistence": (of_layers.persistence, 4, 300, 1e-7),
    "ramanujan": (lambda e: of_layers.ramanujan(e, ""), 10, 300, 1e-5),
    "distances": (_each(of_graph.DISTANCES), 12, 300, 1e-9),
    "spectra": (_each(of_graph.SPECTRA), 20, 200, 1e-5),
    "searches": (lambda e: _each(of_graph.SEARCHES)(e) | of_removal.curves(e), 24, 140, 1e-8),
}
ESTIMATES = 40  # bounds and estimates on one net in so many


def measured(e: Explicit, view: Any, name: str) -> Any:
    """The value; None where the metric says that it is not defined; CapacityError where it leaves it to others."""
    metric = METRICS[name]
    assert "dag" not in metric.requires or e.graph.is_dag
    try:
        value = metric.compute(view)
    except CapacityError:
        raise
    except MetricError:
        return None
    value = value.value if isinstance(value, Measured) else value
    return of_layers.plain(value) if metric.scope == "layer" else of_graph.plain(value)


def same(found: Any, expected: Any, rel: float) -> bool:
    if found is None or expected is None:
        return found is expected
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k], rel) for k in expected)
    if isinstance(expected, int) and isinstance(found, int):
        return found == expected
    if np.asarray(expected).dtype.kind in "biu" and np.asarray(found).dtype.kind in "biu":
        return np.array_equal(found, expected)
    a, b = np.asarray(found, float), np.asarray(expected, float)
    return a.shape == b.shape and np.allclose(a, b, rtol=rel, atol=rel, equal_nan=True)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_equals_brute_force(chunk: int) -> None:
    defined: set[str] = set()
    for turn, seed in enumerate(range(chunk, NETS, CHUNKS), chunk):
        e = Explicit(seed)
        settings = {"samples": e.n, "max_iterations": 1000, "tolerance": 1e-10, **of_removal.SETTINGS}
        view = OperatorAnalyzer().prepare(e.graph, AnalysisContext(settings=settings))
        for k, (witness, every, most, rel) in enumerate(FAMILIES.values()):
            if (turn + k) % every or e.n > most:
                continue
            for name, expected in witness(e).items():
                try:
                    found = measured(e, view, name)
                except CapacityError:
                    continue
                if not same(found, expected, rel) and not _layers_left_out(name, found, expected, rel):
                    raise AssertionError(f"net {seed}: {name} {_difference(found, expected)}")
                if found is not None:
                    defined.add(name)
        for name, bounds in of_graph.BETWEEN.items():
            if (turn + len(name)) % ESTIMATES == 0 and e.m and e.n <= 300:
                low, high = bounds(e)
                found = measured(e, view, name)
                assert np.all((np.asarray(low) - 1e-9 <= found) & (found <= np.asarray(high) + 1e-9)), (seed, name)
                defined.add(name)
    always = {*of_graph.SIZES, *of_layers.SIZES}
    assert not always - defined, "some metric was never defined: nothing was compared"


def _difference(found: Any, expected: Any) -> str:
    """What to look at, where the values are long."""
    if isinstance(found, np.ndarray) and np.shape(found) == np.shape(expected):
        where = np.flatnonzero(~np.isclose(found, np.asarray(expected, float), rtol=1e-9, equal_nan=True))
        return f"differs at nodes {where[:9]}: {found[where[:9]]}, brute force says {np.asarray(expected)[where[:9]]}"
    return f"is {found}, brute force says {expected}"


def _layers_left_out(name: str, found: Any, expected: Any, rel: float) -> bool:
    """4-cycles within layers are told of those layers whose form is known: fewer than all."""
    if name == "butterflies_within_layers":
        return found is None or found < expected
    if name not in ("layer_butterflies", "layer_bipartite_clustering") or found is None:
        return False
    return found.keys() <= expected.keys() and all(same(found[k], expected[k], rel) for k in found)


def test_every_metric_is_compared() -> None:
    e = Explicit(0)
    known = set(of_graph.BETWEEN).union(*(witness(e) for witness, *_ in FAMILIES.values()))
    elsewhere = {name for names in ELSEWHERE.values() for name in names}
    assert set(METRICS) - known - elsewhere == set()
    assert known - set(METRICS) == set()
    assert not known & elsewhere
