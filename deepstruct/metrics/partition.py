"""Partitions of the nodes that are given: by layer, by module, by channel, or by the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepstruct.errors import MetricError
from deepstruct.metrics.table import on_both

if TYPE_CHECKING:
    from deepstruct.analyzers.igraph import IgraphView
    from deepstruct.analyzers.networkx import NetworkxView

MULTI = "of the given partition (setting 'partition'), direction dropped, parallel edges counted as often as they occur"
DEFINITIONS = {
    "modularity_of_partition": (f"Newman's modularity {MULTI}: sum over groups of L_c / m - (d_c / 2m)^2.", "Newman"),
    "coverage_of_partition": (f"Share of the edges within groups {MULTI}.", "Fortunato 2010"),
    "normalized_cut_of_partition": (
        f"Sum over groups of cut / summed degree {MULTI}; groups without edges count 0.", "Shi & Malik 2000"
    ),
}  # fmt: skip


def node_labels(graph: Any, settings: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """The group of every node, numbered from 0. Raises MetricError for a partition that is none."""
    wanted = settings.get("partition", "layer")
    if not isinstance(wanted, str):
        labels = np.asarray(wanted)
        if labels.shape != (graph.num_nodes,) or labels.dtype.kind not in "iu":
            raise MetricError(
                f"the setting 'partition' has shape {labels.shape} and dtype {labels.dtype}: give one whole number for "
                f"each of the {graph.num_nodes} nodes"
            )
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if wanted == "channel":
        from deepstruct.structure.orders.labels import channel_labels

        slots = channel_labels(graph).tensor().numpy()
    elif wanted in ("layer", "module"):
        slots = np.zeros(graph.num_slots, np.int64)
        tops: dict[str, int] = {}
        for space in graph.spaces:
            top = space.path.split(".")[0]
            slots[space.slots] = space.index if wanted == "layer" else tops.setdefault(top, len(tops))
    else:
        raise MetricError(f"the setting 'partition' is {wanted!r}: choose from layer, module, channel, or give labels")
    return np.unique(slots[graph.is_node.numpy()], return_inverse=True)[1].astype(np.int64)


def _labels(view: Any) -> list[int]:
    wanted = view.context.settings.get("partition", "layer")
    labels = view.edges.space if isinstance(wanted, str) and wanted == "layer" else None
    chosen: list[int] = (node_labels(view.graph, view.context.settings) if labels is None else labels).tolist()
    return chosen


def _need_edges(view: Any) -> None:
    if view.num_edges == 0:
        raise MetricError("the graph has no edges")


def _modularity_igraph(view: IgraphView) -> float:
    _need_edges(view)
    return float(view.multigraph.modularity(_labels(view), directed=False))


def _modularity_networkx(view: NetworkxView) -> float:
    import networkx as nx

    _need_edges(view)
    members: dict[int, set[int]] = {}
    for node, label in enumerate(_labels(view)):
        members.setdefault(label, set()).add(node)
    graph = nx.MultiGraph()
    graph.add_nodes_from(view.multigraph)
    graph.add_edges_from(view.multigraph.edges())  # without keys: u -> v and v -> u stay two edges
    return float(nx.community.modularity(graph, members.values(), weight=None))


METRICS = on_both(
    "modularity_of_partition",
    DEFINITIONS["modularity_of_partition"][0],
    source=DEFINITIONS["modularity_of_partition"][1],
    default=False,
    igraph=_modularity_igraph,
    networkx=_modularity_networkx,
)
