"""Witnesses for spectral tests: dense matrices from the explicit edge list, and metrics by name."""

from __future__ import annotations

from typing import Any

import numpy as np

import deepstruct
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.metrics.base import AnalysisContext, Measured
from deepstruct.structure.graph import StructureGraph
from tests.random_nets import random_net


def small_graphs(seeds: Any, nodes: int = 250) -> list[StructureGraph]:
    """Zeroth-order graphs of random nets with at most so many nodes."""
    graphs = [deepstruct.extract(*random_net(seed), attention="units") for seed in seeds]
    return [graph for graph in graphs if graph.num_nodes <= nodes and graph.num_edges]


def dense(graph: StructureGraph, mode: str = "pattern") -> np.ndarray:
    """A[u, v]: the number (or summed |w|, structural edges 1) of edges u -> v."""
    edges = graph.edge_list()
    value = np.ones(edges.num_edges)
    if mode == "abs":
        value = np.where(np.isnan(edges.weight), 1.0, np.abs(edges.weight))
    matrix = np.zeros((edges.num_nodes,) * 2)
    np.add.at(matrix, (edges.source, edges.target), value)
    return matrix


def giant(matrix: np.ndarray) -> np.ndarray:
    """Node ids of the largest component of a symmetric matrix; of several, the one with the first node."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    labels = connected_components(csr_array(matrix), directed=False)[1]
    sizes = np.bincount(labels)
    return np.flatnonzero(labels == labels[np.flatnonzero(sizes[labels] == sizes.max())[0]])


def measure(graph: StructureGraph, module: Any, name: str, **settings: Any) -> Measured:
    """A metric of a family module, with what it says about itself."""
    return of_view(OperatorAnalyzer().prepare(graph, AnalysisContext(settings=settings)), module, name)


def of_view(view: Any, module: Any, name: str) -> Measured:
    """The same, of a view that others have used."""
    metric = next(m for m in module.METRICS if m.name == name)
    value = metric.compute(view)
    return value if isinstance(value, Measured) else Measured(value)
