"""Modularity and cuts of a given partition, exactly; clusterability of the weights, by spectral clustering."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deepstruct.analyzers.operator.iteration import iteration, once
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.clusters import Clusters, spectral_clusters
from deepstruct.engine.partition import GroupSums, group_sums
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.metrics.partition import DEFINITIONS, node_labels


def _sums(view: OperatorView) -> GroupSums:
    def compute() -> GroupSums:
        view.need_explicit_units("a partition of the nodes")
        labels = torch.zeros(view.graph.num_slots, dtype=torch.int64)
        labels[view.graph.is_node] = torch.from_numpy(node_labels(view.graph, view.context.settings))
        return group_sums(view.graph, labels)

    view.need_explicit_units("the sums over a partition")
    view.need_nodes()
    if view.graph.num_edges == 0:
        raise MetricError("the graph has no edges")
    return once(view, "sums over the partition", compute)


def _clusters(view: OperatorView) -> tuple[Clusters, int]:
    def compute() -> tuple[Clusters, int]:
        run = iteration(view)
        k = int(view.context.settings.get("clusters", 12))
        if k < 2:
            raise MetricError(f"the setting 'clusters' is {k}: give 2 or more")
        try:
            found = spectral_clusters(
                view.graph, k, seed=run.seed, steps=run.steps, tolerance=run.tolerance, structural=False,
                max_memory=view.context.max_memory,
            )  # fmt: skip
        except MemoryError as error:
            raise CapacityError(
                f"the eigenvectors of {k} clusters do not fit: {error} (max_memory); take the first order"
            ) from error
        if found is None:
            raise MetricError(f"fewer than {k + 2} nodes have weights: no {k} clusters (setting 'clusters')")
        return found, k

    view.need_explicit_units("clusterability")
    return once(view, "spectral clusters", compute)


def _clusterability(view: OperatorView) -> Measured:
    found, k = _clusters(view)
    note = f"{k} clusters of {found.nodes} nodes with weights; an upper bound of the least cut"
    return Measured(found.normalized_cut, exact=False, converged=found.converged, note=note)


def _given(name: str, value: Callable[[GroupSums], float]) -> Metric:
    definition, source = DEFINITIONS[name]
    return Metric(
        name, "operator", lambda view: value(_sums(view)), definition=definition, source=source, default=False
    )  # fmt: skip


METRICS: list[Metric] = [
    _given("modularity_of_partition", lambda sums: sums.modularity),
    _given("coverage_of_partition", lambda sums: sums.coverage),
    _given("normalized_cut_of_partition", lambda sums: sums.normalized_cut),
    Metric(
        "clusterability", "operator", _clusterability, orders=("zeroth", "first"), exact=False, default=False,
        source="Filan et al. 2021",
        definition="Normalized cut (sum over clusters of cut / summed strength) of the normalized spectral clustering "
        "of the undirected graph with |w| for edges, structural edges left out, nodes without weights left out; "
        "12 clusters (setting 'clusters'), k-means of eight seeded starts. At the first order an edge weighs what the "
        "channels' weights sum to.",
    ),
]  # fmt: skip
