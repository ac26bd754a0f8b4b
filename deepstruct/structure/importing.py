"""A structure graph from a graph of another library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Sparse, WeightRef
from deepstruct.structure.space import Space

if TYPE_CHECKING:
    import networkx

    from deepstruct.structure.graph import StructureGraph


def from_networkx(
    graph: networkx.Graph, inputs: Sequence[Any] | None, outputs: Sequence[Any] | None, order: str
) -> StructureGraph:
    """See `StructureGraph.from_networkx`."""
    import networkx as nx

    nodes = list(graph.nodes)
    position = {node: k for k, node in enumerate(nodes)}
    edges = []
    for u, v, data in graph.edges(data=True):
        a, b = position[u], position[v]
        if not graph.is_directed() and a > b:
            a, b = b, a
        edges.append((a, b, data.get("weight")))
    directed = nx.MultiDiGraph()
    directed.add_nodes_from(range(len(nodes)))
    directed.add_edges_from((a, b) for a, b, _ in edges)
    is_dag = nx.is_directed_acyclic_graph(directed)
    ranks = list(nx.topological_generations(directed)) if is_dag else [list(range(len(nodes)))]
    first = [n for n in directed if directed.in_degree(n) == 0 < directed.out_degree(n)]
    last = [n for n in directed if directed.out_degree(n) == 0 < directed.in_degree(n)]
    sources, sinks = _chosen(inputs, position, "inputs", first), _chosen(outputs, position, "outputs", last)
    return _assemble(graph, nodes, edges, ranks, sources, sinks, order, is_dag)


def _chosen(given: Sequence[Any] | None, position: dict[Any, int], what: str, default: list[int]) -> set[int]:
    if given is None:
        return set(default)
    missing = [node for node in given if node not in position]
    if missing:
        raise StructureError(f"{what} {missing[:5]!r} are no nodes of the graph")
    return {position[node] for node in given}


def _assemble(
    graph: Any, nodes: list[Any], edges: list[tuple[int, int, Any]], ranks: list[list[int]],
    sources: set[int], sinks: set[int], order: str, is_dag: bool,
) -> StructureGraph:  # fmt: skip
    """One space per topological rank (inputs and others apart), and one list of edges into each space."""
    from deepstruct.structure.graph import StructureGraph

    spaces: list[Space] = []
    slot: dict[int, int] = {}
    for k, rank in enumerate(ranks):
        for kind in ("source", "layer"):
            members = [n for n in rank if (n in sources) == (kind == "source")]
            if not members:
                continue
            name = f"layer{k}" if kind == "layer" else "input" if k == 0 else f"input{k}"
            space = Space(len(spaces), name, "", kind, (len(members),), len(slot),
                          node_names=[str(nodes[n]) for n in members])  # fmt: skip
            for n in members:
                slot[n] = len(slot)
            spaces.append(space)
    everything = Operand.strided((len(nodes),), (1,), 0)
    operators = []
    for space in spaces:
        for weighted in (True, False):
            mine = [
                (slot[a], slot[b] - space.offset, w) for a, b, w in edges
                if space.offset <= slot[b] < space.offset + space.numel and (w is not None) == weighted
            ]  # fmt: skip
            if not mine:
                continue
            rows, cols = (torch.tensor([m[i] for m in mine], dtype=torch.int64) for i in (0, 1))
            target = Operand.strided(space.shape, (1,), space.offset)
            ref = None
            if weighted:
                ref = WeightRef(("edges", space.index), torch.tensor([float(m[2]) for m in mine], dtype=torch.float64))
            op = Sparse(everything, target, rows, cols, ref)
            op.name = space.name
            operators.append(op)
    is_output = torch.zeros(len(nodes), dtype=torch.bool)
    is_output[[slot[n] for n in sinks]] = True
    name = str(graph.graph.get("name") or type(graph).__name__)
    return StructureGraph(order, name, spaces, list(operators), is_output, is_dag=is_dag,
                          conventions={"graph": "nodes and edges as given"})  # fmt: skip
