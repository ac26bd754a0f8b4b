"""Which analyzer computes which metric of a graph, and what became of it."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

from deepstruct.analyzers.values import plain_value
from deepstruct.engine.budget import limited
from deepstruct.errors import BudgetError, CapacityError, MetricError, PluginError
from deepstruct.metrics.base import AnalysisContext, Analyzer, Measured, Metric, MetricValue, Skipped
from deepstruct.structure.vectors import LARGE, give_back

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

Progress = Callable[[str, int, int], None]


class Registry(Protocol):
    """What select needs of the plugin host."""

    @property
    def analyzers(self) -> Sequence[Analyzer]: ...

    @property
    def metrics(self) -> Sequence[Metric]: ...

    def provider_of(self, obj: Any) -> str:
        """Distribution and version that an analyzer or metric comes from."""
        ...


def analyze_graph(
    graph: StructureGraph,
    metrics: Iterable[str] | Literal["all"] | None = None,
    analyzer: str = "auto",
    context: AnalysisContext | None = None,
    *,
    registry: Registry,
    progress: Progress | None = None,
    prefer: Any = None,
) -> tuple[list[MetricValue], list[Skipped]]:
    """Measure one graph.

    metrics: None for the standard panel, "all" for everything offered at the graph's order, or names.
    analyzer: "auto" (per metric the first by priority that offers it, can run and fits), or one name.
    progress: called with (metric name, how many are done, how many in all) before each metric.
    prefer: which plugin wins where two offer the same metric or analyzer: a distribution, or
        "metric NAME" or "analyzer NAME" -> distribution.

    Every wanted metric ends up either among the values or among the skipped, in catalogue order; one
    that fails costs only itself. Raises MetricError for an unknown metric or analyzer, and when the
    analyzer asked for cannot run.
    """
    context = context or AnalysisContext()
    bench = _Bench(graph, context, registry, _chosen(analyzer, registry, prefer), prefer)
    names = wanted_names(metrics, graph.order, registry, None if analyzer == "auto" else analyzer)
    for done, name in enumerate(names):
        if progress is not None:
            progress(name, done, len(names))
        bench.measure(name)
    return bench.values, bench.skipped


def wanted_names(
    metrics: Iterable[str] | Literal["all"] | None,
    order: str,
    registry: Registry,
    analyzer: str | None = None,
) -> list[str]:
    """Names of the metrics to compute, each once. Raises MetricError for names that nobody offers."""
    if metrics is None or isinstance(metrics, str):
        if metrics is not None and metrics != "all":
            metrics = [metrics]
        else:
            return list(
                dict.fromkeys(
                    metric.name
                    for metric in registry.metrics
                    if order in metric.orders
                    and (metrics == "all" or metric.default)
                    and analyzer in (None, metric.analyzer)
                )
            )
    if not isinstance(metrics, Iterable):
        raise MetricError(f'metrics is of type {type(metrics).__name__}; pass None, "all", or names of metrics')
    names = list(dict.fromkeys(metrics))
    known = dict.fromkeys(metric.name for metric in registry.metrics)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise MetricError("; ".join(_unknown("metric", name, list(known)) for name in unknown))
    return names


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
    return f"unknown {kind} {name!r}: {hint}"


def _chosen(analyzer: str, registry: Registry, prefer: Any) -> list[Analyzer]:
    by_name: dict[str, list[Analyzer]] = {}
    for candidate in registry.analyzers:
        by_name.setdefault(candidate.name, []).append(candidate)
    # An analyzer's priority says when `auto` tries it, not whether it replaces another one.
    single = [
        _one(same, f"analyzer {name}", registry, prefer, ranked=False)
        for name, same in by_name.items()
        if analyzer in ("auto", name)
    ]
    ranked = sorted(single or registry.analyzers, key=lambda candidate: candidate.priority)
    if analyzer == "auto":
        return ranked
    named = [candidate for candidate in ranked if candidate.name == analyzer]
    if not named:
        raise MetricError(_unknown("analyzer", analyzer, ["auto", *(a.name for a in ranked)]))
    reason = named[0].available()
    if reason is not None:
        raise MetricError(f"analyzer {analyzer!r} cannot run here: {reason}")
    return named[:1]


def _one(candidates: list[Any], key: str, registry: Any, prefer: Any, **options: Any) -> Any:
    """The one of several analyzers or metrics that serves; a registry that cannot tell them apart has the first."""
    if len(candidates) == 1 or not hasattr(registry, "resolve"):
        return candidates[0]
    return registry.resolve(candidates, key, prefer, **options)


class _Refused(Exception):
    """This analyzer cannot serve this metric; the next one may."""

    def __init__(self, reason: str, estimate: int | None = None) -> None:
        super().__init__(reason)
        self.estimate = estimate


class _Bench:
    """The analyzers at work on one graph: each view is prepared once, when it is first needed."""

    def __init__(
        self, graph: StructureGraph, context: AnalysisContext, registry: Registry, analyzers: list[Analyzer],
        prefer: Any = None,
    ) -> None:  # fmt: skip
        self.graph, self.context, self.registry, self.analyzers = graph, context, registry, analyzers
        self._prefer = prefer
        self.values: list[MetricValue] = []
        self.skipped: list[Skipped] = []
        self._views: dict[str, Any] = {}
        self._refusals: dict[str, _Refused] = {}
        self._offers: dict[tuple[str, str], list[Metric]] = {}
        for metric in registry.metrics:
            if graph.order in metric.orders:
                self._offers.setdefault((metric.name, metric.analyzer), []).append(metric)

    def measure(self, name: str) -> None:
        """Append one value, or one line about why there is none."""
        refusals: list[str] = []
        estimate: int | None = None
        for analyzer in self.analyzers:
            offered = self._offers.get((name, analyzer.name))
            if offered is None:
                continue
            try:
                metric = _one(offered, f"metric {name}", self.registry, self._prefer)
            except PluginError as error:
                return self._skip(name, str(error))
            try:
                self.values.append(self._run(metric, analyzer, "; ".join(refusals)))
                return
            except _Refused as refusal:
                refusals.append(f"{analyzer.name}: {refusal}")
                estimate = refusal.estimate if estimate is None else estimate
            except CapacityError as error:
                refusals.append(f"{analyzer.name}: {error}")
                estimate = error.estimate if estimate is None else estimate
            except MetricError as error:
                return self._skip(name, str(error))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a plugin that calls sys.exit() costs no more than another
                who = self.registry.provider_of(metric)
                where = f"metric {name!r} of analyzer {analyzer.name!r}" + (f" from {who}" if who else "")
                return self._skip(name, f"failed: {type(error).__name__}: {error} ({where})")
        self._skip(name, "; ".join(refusals) or self._not_offered(name), estimate)

    def _skip(self, name: str, reason: str, estimate: int | None = None) -> None:
        self.skipped.append(Skipped(name, self.graph.order, reason, "metric", estimate))

    def _not_offered(self, name: str) -> str:
        others = sorted({m.analyzer for m in self.registry.metrics if m.name == name})
        orders = sorted({order for m in self.registry.metrics if m.name == name for order in m.orders})
        asked = ", ".join(analyzer.name for analyzer in self.analyzers) or "none"
        return (
            f"not offered at order {self.graph.order} by the analyzers in use ({asked}); "
            f"offered by {', '.join(others)} at {', '.join(orders)}"
        )

    def _run(self, metric: Metric, analyzer: Analyzer, note: str) -> MetricValue:
        self._check(metric, analyzer)
        with limited(self.context.max_seconds):
            view = self._view(analyzer)
            began = time.perf_counter()
            with self._guarded(metric):
                result = metric.compute(view)
            if self.graph.num_nodes >= LARGE:  # or what one metric has freed is there beside what the next one needs
                give_back()
            seconds = time.perf_counter() - began
        measured = result if isinstance(result, Measured) else Measured(result, exact=metric.exact)
        return MetricValue(
            name=metric.name,
            order=self.graph.order,
            scope=metric.scope,
            value=plain_value(measured.value, metric.scope, int(self.graph.num_nodes)),
            analyzer=analyzer.name,
            exact=measured.exact and metric.exact,
            residual=measured.residual,
            converged=measured.converged,
            source=metric.source,
            definition=metric.definition,
            note="; ".join(part for part in (measured.note, note) if part),
            seconds=seconds,
            provider=self.registry.provider_of(metric),
        )

    def _guarded(self, metric: Metric) -> AbstractContextManager[Any]:
        """Nothing for what is built in; a metric of a plugin may not write into the weights."""
        find = getattr(self.registry, "offer_of", None)
        offer = None if find is None else find(metric)
        if offer is None or offer.builtin:
            return nullcontext()
        from deepstruct.plugin.guard import WriteGuard

        weights = {op.name: op.weight.tensor for op in self.graph.operators if op.weight is not None}
        return WriteGuard(weights)

    def _check(self, metric: Metric, analyzer: Analyzer) -> None:
        """What can be told without the view: the graph's kind and the work that the metric takes."""
        if "nonempty" in metric.requires and self.graph.num_nodes == 0:
            raise MetricError("the graph has no nodes")
        if "dag" in metric.requires and not self.graph.is_dag:
            raise MetricError("the graph has a cycle: this metric is defined on acyclic graphs only")
        limit = self.context.settings.get("max_operations", getattr(analyzer, "max_operations", None))
        if metric.cost is not None and limit is not None:
            steps = metric.cost(self.graph)
            if steps > float(limit):
                raise _Refused(
                    f"takes about {steps:.2g} steps, more than the limit of {float(limit):.2g} "
                    "(setting 'max_operations')"
                )

    def _view(self, analyzer: Analyzer) -> Any:
        if analyzer.name in self._refusals:
            raise self._refusals[analyzer.name]
        if analyzer.name not in self._views:
            try:
                self._views[analyzer.name] = self._prepare(analyzer)
            except _Refused as refusal:
                self._refusals[analyzer.name] = refusal
                raise
        return self._views[analyzer.name]

    def _prepare(self, analyzer: Analyzer) -> Any:
        """The view. A refusal holds for all metrics of this analyzer, and is told with each of them."""
        estimate: int | None = None
        try:
            reason = analyzer.available()
            if reason is not None:
                raise _Refused(reason)
            estimate = int(analyzer.estimate(self.graph))
            if estimate > self.context.max_memory:
                budget = _size(self.context.max_memory)
                reason = f"needs about {_size(estimate)}, more than the budget of {budget} (max_memory)"
                raise _Refused(reason, estimate)
            return analyzer.prepare(self.graph, self.context)
        except (_Refused, BudgetError):  # out of time holds for this metric alone
            raise
        except CapacityError as error:
            raise _Refused(str(error), estimate if error.estimate is None else error.estimate) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as above
            who = self.registry.provider_of(analyzer)
            reason = f"failed: {type(error).__name__}: {error}" + (f" (analyzer from {who})" if who else "")
            self.skipped.append(Skipped(analyzer.name, self.graph.order, reason, "plugin"))
            raise _Refused(reason) from error


def _size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"
