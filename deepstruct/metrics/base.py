"""What a metric is, and what a measured value carries with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

Scope = Literal["graph", "layer", "node"]
ORDERS = ("zeroth", "first", "second", "third")


@dataclass(frozen=True)
class Setting:
    """A key of `analyze(settings=...)`: its name, what holds without it, and what it does."""

    name: str
    default: Any
    definition: str


@dataclass(frozen=True)
class Metric:
    """A metric of one analyzer: a name of the catalogue and the function that computes it.

    `compute` takes the view that the analyzer prepared (see `Analyzer.prepare`) and returns a plain
    number for graph scope, a mapping layer name -> number for layer scope, an array with one entry per
    node for node scope; or a `Measured` where there is more to say (residual, convergence).
    `requires` names what the graph must be: "dag", "connected", "nonempty".
    `cost` estimates the elementary steps from the graph's sizes alone; above the limit (the setting
    "max_operations", else the analyzer's own `max_operations`) the metric is skipped with that figure.
    `settings` are the keys of `analyze(settings=...)` that it reads, where those are not built in.
    `bounds` is what `deepstruct.testing.check_metric` holds its values against.
    """

    name: str
    analyzer: str
    compute: Callable[[Any], Any]
    scope: Scope = "graph"
    orders: tuple[str, ...] = ORDERS
    definition: str = ""
    source: str = ""
    exact: bool = True
    requires: tuple[str, ...] = ()
    default: bool = True  # part of the standard panel
    cost: Callable[[StructureGraph], float] | None = None
    settings: tuple[Setting, ...] = ()
    bounds: tuple[float, float] | None = None  # that every value lies within, both ends included


@dataclass(frozen=True)
class Measured:
    """A value with what an iterative method has to say about it."""

    value: Any
    exact: bool = True
    residual: float | None = None
    converged: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class MetricValue:
    """One row of a report: a value and where it comes from.

    `residual` and `converged` are those of an iterative method, None for others. The null fields are there
    when the value was compared with null models (`analyze(null=...)`): mean and sample standard deviation
    over `null_samples` of them, and z = (value - mean) / std, NaN where that is not defined (the note says why).
    """

    name: str
    order: str
    scope: Scope
    value: Any
    analyzer: str
    exact: bool = True
    residual: float | None = None
    converged: bool | None = None
    source: str = ""
    definition: str = ""
    note: str = ""
    seconds: float = 0.0
    provider: str = ""  # distribution and version of the plugin that made it
    null_mean: float | int | None = None
    null_std: float | int | None = None
    z: float | None = None
    null_samples: int | None = None


@dataclass(frozen=True)
class Skipped:
    """What was not computed, and why."""

    name: str  # metric, layer, plugin or output
    order: str
    reason: str
    kind: Literal["metric", "layer", "output", "plugin", "order"] = "metric"
    estimate_bytes: int | None = None


@dataclass(frozen=True)
class AnalysisContext:
    """Budgets and settings that an analyzer is given.

    `max_seconds` is for each metric; loops ask `deepstruct.engine.budget` whether there is time left.
    """

    max_memory: int = 2 << 30  # bytes
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_seconds: float | None = None


@runtime_checkable
class Analyzer(Protocol):
    """Prepares a view of a graph that metrics are computed on.

    `operator` views the edge operators and never builds the graph; `igraph` and `networkx` view the
    explicit graph. `estimate` gives the bytes that the view needs, so that what does not fit is skipped
    with a figure; `prepare` may raise CapacityError.
    """

    name: str
    priority: int  # `auto` tries analyzers by ascending priority

    def available(self) -> str | None:
        """None, or the reason why this analyzer cannot run here (package missing)."""
        ...

    def estimate(self, graph: StructureGraph) -> int: ...

    def prepare(self, graph: StructureGraph, context: AnalysisContext) -> Any: ...
