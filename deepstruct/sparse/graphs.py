"""Graphs of models: inputs, hidden vertices and outputs as nodes, existing connections as edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from deepstruct.errors import InputError

if TYPE_CHECKING:
    from deepstruct.graph import CachedLayeredGraph
    from deepstruct.sparse.masked import MaskedLayer

ROLES = ("input", "hidden", "output")


class Block(NamedTuple):
    """Connections between two ranges of nodes: source[k] -> target[k], counted within the model."""

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def block_of(layer: MaskedLayer, sources: np.ndarray, targets: np.ndarray) -> Block:
    """The existing connections of a layer (out, in) from nodes `sources` (in) to nodes `targets` (out)."""
    with torch.no_grad():
        row, col = (t.cpu().numpy() for t in layer.mask.nonzero(as_tuple=True))
        weight = layer.weight[layer.mask].detach().cpu().double().numpy()
    return Block(sources[col], targets[row], weight)


def assemble(
    roles: Sequence[str], blocks: Sequence[Block], include: tuple[str, ...], weights: bool,
    attributes: dict[str, Any] | None = None, node_data: Sequence[dict[str, Any]] = (),
) -> CachedLayeredGraph:  # fmt: skip
    """A graph of the nodes whose role is included, numbered from 0 in their order.

    Args:
        roles: of every node of the model.
        weights: store `weight` on edges, and `node_data` on nodes.
    """
    from deepstruct.graph import CachedLayeredGraph

    keep = np.isin(np.asarray(roles), include)
    number = keep.cumsum() - 1
    source, target, weight = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    inside = keep[source] & keep[target]
    source, target, weight = number[source[inside]], number[target[inside]], weight[inside]
    graph = CachedLayeredGraph(**(attributes or {}))
    graph._fill(int(keep.sum()), source, target)
    if weights:
        successors = graph._succ
        for u, v, w in zip(source.tolist(), target.tolist(), weight.tolist(), strict=True):
            successors[u][v]["weight"] = w
    for i, data in zip(np.flatnonzero(keep).tolist(), range(int(keep.sum())), strict=True):
        if node_data:
            graph.nodes[data].update(node_data[i])
    return graph


class ReadGraph(NamedTuple):
    """A graph with roles, taken apart: nodes by role, and edges as positions in that order."""

    nodes: list[Any]
    data: list[dict[str, Any]]
    roles: np.ndarray
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None

    def of(self, role: str) -> np.ndarray:
        """Positions of the nodes of a role."""
        return np.flatnonzero(self.roles == ROLES.index(role))

    def column(self, role: str, name: str) -> np.ndarray:
        """One number per node of a role; raises InputError where a node has none."""
        try:
            return np.array([self.data[i][name] for i in self.of(role)], dtype=np.float64)
        except KeyError:
            raise InputError(f"a node of role {role!r} has no {name!r}: take model.to_graph(weights=True)") from None


def read_graph(graph: Any) -> ReadGraph:
    """Read back what `to_graph` made, or the GraphML file that it was saved to.

    Raises InputError for graphs without roles, or with weights on some edges only.
    """
    if isinstance(graph, (str, bytes)) or hasattr(graph, "__fspath__"):
        from deepstruct.graph import LayeredGraph

        graph = LayeredGraph.load(graph)
    nodes = list(graph.nodes)
    data = [dict(graph.nodes[v]) for v in nodes]
    if not nodes or any(d.get("role") not in ROLES for d in data):
        raise InputError(
            "the nodes of this graph have no roles (input, hidden, output): take model.to_graph(), or pass a bare "
            "structure to the constructor"
        )
    roles = np.array([ROLES.index(d["role"]) for d in data])
    order = np.argsort(roles, kind="stable")
    nodes, data, roles = [nodes[i] for i in order], [data[i] for i in order], roles[order]
    position = {v: i for i, v in enumerate(nodes)}
    triples = list(graph.edges(data=True))
    source = np.array([position[u] for u, _, _ in triples], dtype=np.int64)
    target = np.array([position[v] for _, v, _ in triples], dtype=np.int64)
    with_weight = sum("weight" in d for _, _, d in triples)
    if with_weight not in (0, len(triples)):
        raise InputError(f"{with_weight} of {len(triples)} edges have a weight: all of them, or none")
    weighted = with_weight or (not triples and any("bias" in d for d in data))
    weight = np.array([d["weight"] for _, _, d in triples], dtype=np.float64) if weighted else None
    return ReadGraph(nodes, data, roles, source, target, weight)


def fill_layer(layer: MaskedLayer, read: ReadGraph, sources: np.ndarray, targets: np.ndarray) -> None:
    """Set mask and, where the graph has weights, weight of a layer from the edges between two lists of nodes."""
    row, col = np.full(len(read.nodes), -1), np.full(len(read.nodes), -1)
    row[targets], col[sources] = np.arange(len(targets)), np.arange(len(sources))
    chosen = (row[read.target] >= 0) & (col[read.source] >= 0)
    place = (torch.from_numpy(row[read.target[chosen]]), torch.from_numpy(col[read.source[chosen]]))
    with torch.no_grad():
        layer.mask.fill_(False)
        layer.mask[place] = True
        if read.weight is not None:
            layer.weight.zero_()
            layer.weight[place] = torch.from_numpy(read.weight[chosen]).to(layer.weight.dtype)
