"""An explicit graph that is nothing but its edge list: what explicit metrics are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


@dataclass
class Edges:
    num_nodes: int
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    space: np.ndarray


@dataclass
class PlainGraph:
    edges: Edges
    is_dag: bool
    order: str = "zeroth"
    name: str = "plain"
    conventions: dict[str, str] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        return self.edges.num_nodes

    @property
    def num_edges(self) -> int:
        return len(self.edges.source)

    def explicit_bytes(self) -> int:
        return 24 * self.num_edges + 24 * self.num_nodes

    def edge_list(self, max_memory: int | None = None) -> Edges:
        return self.edges


def plain_graph(
    num_nodes: int,
    edges: Sequence[tuple[int, int, float | None]],
    inputs: Sequence[int] = (),
    outputs: Sequence[int] = (),
    space: Sequence[int] | None = None,
) -> PlainGraph:
    """A graph from (source, target, weight or None) triples."""
    import networkx as nx

    rows = sorted((u, v, np.nan if w is None else w) for u, v, w in edges)
    columns = [np.array([row[k] for row in rows], kind) for k, kind in enumerate((np.int64, np.int64, float))]
    check = nx.DiGraph([(u, v) for u, v, _ in edges])
    return PlainGraph(
        Edges(
            num_nodes,
            *columns,
            np.array(inputs, np.int64),
            np.array(outputs, np.int64),
            np.zeros(num_nodes, np.int64) if space is None else np.array(space, np.int64),
        ),
        is_dag=nx.is_directed_acyclic_graph(check),
    )


def layered_graph(masks: Sequence[Any]) -> PlainGraph:
    """The graph of a bias-free feed-forward net: masks[l][j][i] is the weight from i to j."""
    widths = [len(masks[0][0]), *(len(mask) for mask in masks)]
    first = np.concatenate([[0], np.cumsum(widths)])
    edges = [
        (int(first[layer] + i), int(first[layer + 1] + j), float(weight))
        for layer, mask in enumerate(masks)
        for j, row in enumerate(mask)
        for i, weight in enumerate(row)
        if weight
    ]
    space = np.repeat(np.arange(len(widths)), widths)
    last = range(int(first[-2]), int(first[-1]))
    return plain_graph(int(first[-1]), edges, range(widths[0]), last, space.tolist())


@pytest.fixture(scope="session")
def plain() -> Callable[..., PlainGraph]:
    return plain_graph


@pytest.fixture(scope="session")
def layered() -> Callable[..., PlainGraph]:
    return layered_graph


@pytest.fixture(scope="session")
def measure() -> Callable[..., Any]:
    """measure(graph, name, analyzer="igraph") -> the value, through the analyzer's own view."""
    from deepstruct.analyzers.igraph import IgraphAnalyzer
    from deepstruct.analyzers.networkx import NetworkxAnalyzer
    from deepstruct.metrics.base import AnalysisContext, Measured
    from deepstruct.metrics.explicit import METRICS

    analyzers = {"igraph": IgraphAnalyzer(), "networkx": NetworkxAnalyzer()}
    table = {(metric.name, metric.analyzer): metric for metric in METRICS}

    def measured(graph: PlainGraph, name: str, analyzer: str = "igraph", **settings: Any) -> Any:
        view = analyzers[analyzer].prepare(graph, AnalysisContext(settings=settings))
        value = table[name, analyzer].compute(view)
        return value.value if isinstance(value, Measured) else value

    return measured
