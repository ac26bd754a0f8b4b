"""A small feed-forward graph, and a registry that holds what a test puts in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepstruct.analyzers.igraph import IgraphAnalyzer
from deepstruct.analyzers.networkx import NetworkxAnalyzer
from deepstruct.errors import CapacityError
from deepstruct.metrics.base import Analyzer, Metric
from deepstruct.metrics.explicit import METRICS


@dataclass
class Graph:
    """A 4-3-2 dense feed-forward graph; counts how often its edge list is asked for."""

    order: str = "zeroth"
    num_nodes: int = 9
    num_edges: int = 18
    is_dag: bool = True
    edge_bytes: int = 0
    asked: int = 0

    def explicit_bytes(self) -> int:
        return 1000

    def edge_list(self, max_memory: int | None = None) -> Any:
        self.asked += 1
        if max_memory is not None and self.edge_bytes > max_memory:
            raise CapacityError(f"the edge list needs {self.edge_bytes} bytes")
        first = [(i, 4 + h) for i in range(4) for h in range(3)]
        second = [(4 + h, 7 + o) for h in range(3) for o in range(2)]
        source, target = np.array(first + second, np.int64).T
        return SimpleNamespace(
            num_nodes=9,
            source=source,
            target=target,
            weight=np.ones(18),
            inputs=np.arange(4),
            outputs=np.arange(7, 9),
            space=np.repeat([0, 1, 2], [4, 3, 2]),
        )


@dataclass
class Plugins:
    """A registry: what built-in analyzers and metrics bring, plus what a test adds."""

    analyzers: list[Analyzer] = field(default_factory=lambda: [NetworkxAnalyzer(), IgraphAnalyzer()])
    metrics: list[Metric] = field(default_factory=lambda: list(METRICS))
    foreign: dict[int, str] = field(default_factory=dict)

    def provider_of(self, obj: Any) -> str:
        return self.foreign.get(id(obj), "deepstruct 1.0")

    def add(self, metric: Metric, provider: str = "acme-metrics 0.3") -> Metric:
        self.metrics.insert(0, metric)
        self.foreign[id(metric)] = provider
        return metric


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def make_graph() -> Callable[..., Graph]:
    return Graph


@pytest.fixture
def registry() -> Plugins:
    return Plugins()
