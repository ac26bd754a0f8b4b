"""Graphs to other libraries and back."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from deepstruct.errors import CapacityError, StructureError
from deepstruct.structure.graph import StructureGraph
from deepstruct.testing import build_graph, count_paths

from .cases import r


class Net(nn.Module):
    """Weights, a pool, a skip that runs parallel to weights, and an output that is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv1d(1, 2, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = nn.functional.avg_pool1d(self.conv(x), 2).flatten(1)[:, :3]
        return h, h + self.linear(h)


def graph() -> StructureGraph:
    return build_graph(Net(), r(1, 1, 4))


def test_there_and_back() -> None:
    one = graph()
    inputs, outputs = one.input_nodes().tolist(), one.output_nodes().tolist()
    other = StructureGraph.from_networkx(one.to_networkx(), inputs=inputs, outputs=outputs)
    assert (other.num_nodes, other.num_edges) == (one.num_nodes, one.num_edges)
    assert other.num_weight_edges == one.num_weight_edges
    assert count_paths(other) == count_paths(one)
    assert other.num_parallel_edges == one.num_parallel_edges == 3
    total = lambda g: np.nansum(g.edge_list().weight)  # noqa: E731
    assert total(one) == pytest.approx(total(other))


def test_all_libraries_have_the_same_edges() -> None:
    one = graph()
    edges = one.edge_list()
    listed = sorted(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    assert sorted(one.to_networkx().edges()) == listed
    assert sorted(e.tuple for e in one.to_igraph().es) == listed
    rows, cols = one.to_scipy().nonzero()
    assert sorted(zip(rows.tolist(), cols.tolist(), strict=True)) == sorted(set(listed))
    kinds = nx.get_edge_attributes(one.to_networkx(), "kind")
    assert sum(kind == "weight" for kind in kinds.values()) == one.num_weight_edges
    assert int(np.isnan(one.to_igraph().es["weight"]).sum()) == one.num_structural_edges


def test_nodes_know_what_they_are() -> None:
    one = graph()
    table = one.node_table()
    assert [row["id"] for row in table] == list(range(one.num_nodes))
    assert [row["role"] for row in table].count("input") == 4
    assert sum(row["is_output"] for row in table) == 6
    assert {row["path"] for row in table} >= {"", "conv"}
    values = np.arange(one.num_nodes, dtype=float)
    by_space = one.node_values_by_space(values)
    assert sorted(np.concatenate([v[~np.isnan(v)] for v in by_space.values()]).tolist()) == values.tolist()
    with pytest.raises(StructureError, match="one value for each"):
        one.node_values_by_space(values[1:])


def test_graphs_of_others() -> None:
    ring = nx.cycle_graph(5, create_using=nx.DiGraph)
    assert not StructureGraph.from_networkx(ring).is_dag
    undirected = StructureGraph.from_networkx(nx.path_graph(4))
    assert undirected.is_dag
    assert (undirected.num_nodes, undirected.num_edges, count_paths(undirected)) == (4, 3, 1)
    assert undirected.num_structural_edges == 3
    lonely = nx.DiGraph()
    lonely.add_nodes_from("abc")
    assert (StructureGraph.from_networkx(lonely).num_nodes, StructureGraph.from_networkx(lonely).num_edges) == (3, 0)
    assert len(StructureGraph.from_networkx(lonely).input_nodes()) == 0
    with pytest.raises(StructureError, match="'z'"):
        StructureGraph.from_networkx(lonely, inputs=["z"])


def test_names_survive() -> None:
    named = nx.DiGraph([("in", "hidden"), ("hidden", "out")])
    named["in"]["hidden"]["weight"] = 0.5
    one = StructureGraph.from_networkx(named)
    assert [row["label"] for row in one.node_table()] == ["in", "hidden", "out"]
    assert (one.num_weight_edges, one.num_structural_edges) == (1, 1)


@pytest.mark.parametrize("export", ["to_scipy", "to_networkx", "to_igraph"])
def test_exports_say_what_they_would_need(export: str) -> None:
    with pytest.raises(CapacityError, match=r"GiB"):
        getattr(graph(), export)(max_memory=100)
