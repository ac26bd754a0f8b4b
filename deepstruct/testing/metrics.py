"""check_metric: what a metric owes on any graph, whatever it measures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.analyzers.values import plain_value
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext, Analyzer, Measured, Metric
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing.support import OracleError

if TYPE_CHECKING:
    import networkx

METRIC_CHECKS = (
    "empty", "single_node", "disconnected", "relabelling", "range", "json", "deterministic", "untouched", "reference",
)  # fmt: skip
"""Names of the checks, as `skip` takes them."""

Reference = Callable[["networkx.MultiDiGraph"], Any]
_SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Undefined:
    """Stands for a value where the metric said that it is not defined."""

    reason: str


def check_metric(
    metric: Metric,
    analyzer: Analyzer | None = None,
    *,
    reference: Reference | None = None,
    bounds: tuple[float, float] | None = None,
    rtol: float | None = None,
    settings: Mapping[str, Any] | None = None,
    skip: tuple[str, ...] = (),
) -> None:
    """Checks a metric on small graphs; raises OracleError with the name of the check that failed.

    The checks, by the names that `skip` takes:

    - "empty", "single_node", "disconnected": on such graphs it gives a value or raises MetricError.
    - "relabelling": other names and another order of the nodes change nothing (node scope: each node keeps
      its value). For exact metrics, and for others when `rtol` is given.
    - "range": every value lies within `bounds` (that of the metric, when none are given).
    - "json": values are what strict JSON can hold, so no NaN and no infinity.
    - "deterministic": measured twice, it is the same.
    - "untouched": the graph's weights are as before.
    - "reference": it agrees with `reference`, a function of the `networkx.MultiDiGraph`; without one, with the
      metric of the same name of the analyzer "networkx", where there is one.

    Args:
        analyzer: the analyzer that the metric names; None asks the plugin host in use.
        rtol: relative tolerance of comparisons; 1e-9 for exact metrics.
        settings: as for `deepstruct.analyze`.
    """
    unknown = set(skip) - set(METRIC_CHECKS)
    if unknown:
        raise OracleError(f"no check is called {sorted(unknown)}; there are {METRIC_CHECKS}")
    bench = _Bench(metric, analyzer or _analyzer(metric.analyzer), dict(settings or {}), rtol)
    limits = bounds or metric.bounds
    for check in METRIC_CHECKS:
        if check in skip:
            continue
        if check == "range":
            if limits is not None:
                _range(bench, limits)
        elif check == "reference":
            _reference(bench, reference)
        else:
            _CHECKS[check](bench)


@dataclass(frozen=True)
class _Bench:
    metric: Metric
    analyzer: Analyzer
    settings: Mapping[str, Any]
    rtol: float | None

    @property
    def tolerance(self) -> float:
        return 1e-9 if self.rtol is None else self.rtol

    @property
    def comparable(self) -> bool:
        """Whether values of two runs on different labels must agree."""
        return self.metric.exact or self.rtol is not None

    def measure(self, graph: StructureGraph, check: str) -> Any:
        """The value of a graph, or `Undefined`."""
        metric = self.metric
        if "nonempty" in metric.requires and graph.num_nodes == 0:
            return Undefined("needs nodes")
        if "dag" in metric.requires and not graph.is_dag:
            return Undefined("needs a graph without cycles")
        try:
            view = self.analyzer.prepare(graph, AnalysisContext(settings=self.settings))
            result = metric.compute(view)
            value = result.value if isinstance(result, Measured) else result
            return plain_value(value, metric.scope, int(graph.num_nodes))
        except (MetricError, CapacityError) as error:
            return Undefined(str(error))
        except Exception as error:
            raise OracleError(
                f"{check}: {metric.name} failed on a graph of {graph.num_nodes} nodes with "
                f"{type(error).__name__}: {error}; where it is not defined, raise MetricError"
            ) from error


def _analyzer(name: str) -> Analyzer:
    from deepstruct.plugin.current import get_host

    for analyzer in get_host().registry().analyzers:
        if analyzer.name == name:
            return analyzer
    raise OracleError(f"no analyzer is called {name!r}: pass the analyzer that the metric is for")


def sample_graphs(order: str = "zeroth") -> Iterator[tuple[str, StructureGraph]]:
    """Small graphs that a metric must cope with, by name: without nodes, without edges, in parts, random."""
    import networkx as nx

    empty, single, parts = nx.MultiDiGraph(), nx.MultiDiGraph(), nx.MultiDiGraph()
    single.add_node("only")
    parts.add_edges_from([("a", "b"), ("b", "c"), ("x", "y")], weight=0.5)
    parts.add_node("alone")
    for name, graph in (("empty", empty), ("single_node", single), ("disconnected", parts)):
        yield name, StructureGraph.from_networkx(graph, order=order)
    for seed in _SEEDS:
        yield f"random {seed}", StructureGraph.from_networkx(_random_dag(seed), order=order)


def _random_dag(seed: int) -> networkx.MultiDiGraph:
    """Twelve nodes, edges from lower to higher numbers, a few of them parallel or structural."""
    import networkx as nx

    draw = random.Random(seed)
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(f"n{k}" for k in range(12))
    for a in range(12):
        for b in range(a + 1, 12):
            if draw.random() < 0.3:
                graph.add_edge(f"n{a}", f"n{b}", **({"weight": draw.uniform(-1, 1)} if draw.random() < 0.8 else {}))
                if draw.random() < 0.1:
                    graph.add_edge(f"n{a}", f"n{b}", weight=draw.uniform(-1, 1))
    return graph


def _named(check: str) -> Callable[[_Bench], None]:
    def run(bench: _Bench) -> None:
        order = bench.metric.orders[0]
        bench.measure(dict(sample_graphs(order))[check], check)

    return run


def _relabelling(bench: _Bench) -> None:
    import networkx as nx

    if not bench.comparable:
        return
    order = bench.metric.orders[0]
    for seed in _SEEDS:
        graph = _random_dag(seed)
        names = list(graph.nodes)
        mixed = list(names)
        random.Random(seed + 100).shuffle(mixed)
        rename = {old: f"m{mixed.index(old)}" for old in names}
        twin = nx.MultiDiGraph()
        twin.add_nodes_from(sorted(rename.values()))
        edges = [(rename[a], rename[b], data) for a, b, data in graph.edges(data=True)]
        random.Random(seed + 200).shuffle(edges)
        twin.add_edges_from(edges)
        one, other = (StructureGraph.from_networkx(g, order=order) for g in (graph, twin))
        value, again = bench.measure(one, "relabelling"), bench.measure(other, "relabelling")
        if bench.metric.scope == "node" and not isinstance(value, Undefined):
            again = _reordered(again, other, [rename[name] for name in _node_names(one)])
        if bench.metric.scope == "layer" and not isinstance(value, Undefined):
            value, again = (sorted(map(str, v.values())) for v in (value, again))
        _equal(bench, "relabelling", "with other names of the nodes", value, again)


def _node_names(graph: StructureGraph) -> list[str]:
    return [name for space in graph.spaces for name in (space.node_names or ())]


def _reordered(values: Any, graph: StructureGraph, names: list[str]) -> Any:
    place = {name: k for k, name in enumerate(_node_names(graph))}
    return values if isinstance(values, Undefined) else values[[place[name] for name in names]]


def _range(bench: _Bench, bounds: tuple[float, float]) -> None:
    low, high = bounds
    for name, graph in sample_graphs(bench.metric.orders[0]):
        for number in _numbers(bench.measure(graph, "range")):
            if not low <= number <= high:
                raise OracleError(f"range: {bench.metric.name} is {number} on graph {name!r}, not in [{low}, {high}]")


def _json(bench: _Bench) -> None:
    for name, graph in sample_graphs(bench.metric.orders[0]):
        value = bench.measure(graph, "json")
        if isinstance(value, Undefined):
            continue
        try:
            json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OracleError(f"json: {bench.metric.name} on graph {name!r} is no JSON value: {error}") from error


def _deterministic(bench: _Bench) -> None:
    for name, graph in sample_graphs(bench.metric.orders[0]):
        first, second = (bench.measure(graph, "deterministic") for _ in range(2))
        _equal(bench, "deterministic", f"measured twice on graph {name!r}", first, second)


def _untouched(bench: _Bench) -> None:
    for name, graph in sample_graphs(bench.metric.orders[0]):
        weights = [op.weight.tensor for op in graph.operators if op.weight is not None]
        before = [weight.clone() for weight in weights]
        bench.measure(graph, "untouched")
        if not all(bool((w == b).all()) for w, b in zip(weights, before, strict=True)):
            raise OracleError(f"untouched: {bench.metric.name} changed the weights of graph {name!r}")


def _reference(bench: _Bench, reference: Reference | None) -> None:
    metric = bench.metric
    if not bench.comparable or metric.scope == "layer":
        return
    witness = None if reference is not None else _of_networkx(metric)
    if reference is None and witness is None:
        return
    for seed in _SEEDS:
        plain = _random_dag(seed)
        graph = StructureGraph.from_networkx(plain, order=metric.orders[0])
        value = bench.measure(graph, "reference")
        if reference is not None:
            expected = reference(plain)
            if metric.scope == "node" and isinstance(expected, Mapping):
                expected = np.array([expected[name] for name in _node_names(graph)])
        else:
            assert witness is not None
            other = _Bench(witness, _analyzer("networkx"), bench.settings, bench.rtol)
            expected = other.measure(graph, "reference")
        _equal(bench, "reference", "beside the reference", value, expected)


def _of_networkx(metric: Metric) -> Metric | None:
    from deepstruct.plugin.current import get_host

    if metric.analyzer == "networkx":
        return None
    found = (m for m in get_host().registry().metrics if (m.name, m.analyzer) == (metric.name, "networkx"))
    return next((m for m in found if m.scope == metric.scope), None)


def _equal(bench: _Bench, check: str, what: str, one: Any, other: Any) -> None:
    if isinstance(one, Undefined) or isinstance(other, Undefined):
        same = isinstance(one, Undefined) and isinstance(other, Undefined)
    else:
        left, right = _numbers(one), _numbers(other)
        if len(left) == len(right) and left:
            same = bool(np.allclose(left, right, rtol=bench.tolerance, atol=bench.tolerance, equal_nan=True))
        else:
            same = len(left) == len(right) and str(one) == str(other)
    if not same:
        raise OracleError(f"{check}: {bench.metric.name} {what} is {other!r}, and was {one!r}")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, np.ndarray):
        return [float(x) for x in value.reshape(-1).tolist()]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else [value]
    return [float(x) for x in items if isinstance(x, (int, float))]


_CHECKS: dict[str, Callable[[_Bench], None]] = {
    "empty": _named("empty"), "single_node": _named("single_node"), "disconnected": _named("disconnected"),
    "relabelling": _relabelling, "json": _json, "deterministic": _deterministic, "untouched": _untouched,
}  # fmt: skip
