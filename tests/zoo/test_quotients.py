"""quotient(k) == order k + 1 on real architectures: by brute force over all edges, and by every way up."""

from __future__ import annotations

import numpy as np
import pytest

import deepstruct
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.orders.higher import PARTITIONS
from tests.zoo.architectures import ZOO, Architecture

pytestmark = pytest.mark.zoo

LEVELS = ("zeroth", "first", "second", "third")
SMALL = [a for a in ZOO if a.quotients]


def test_a_dozen_architectures_are_compared():
    assert len(SMALL) >= 12


def brute(graph: StructureGraph, order: str) -> dict[str, np.ndarray]:
    """The quotient by the definition: edges written down, renamed, and made distinct."""
    partition, _ = PARTITIONS[order]
    labels, groups, _ = partition(graph)
    names = {int(label): (g.name, k) for g in groups for k, label in enumerate(g.labels.tolist())}
    edges = graph.edge_list()
    label = labels.tensor()[graph.is_node].numpy()
    source, target, weighted = label[edges.source], label[edges.target], ~np.isnan(edges.weight)
    across = source != target
    pairs, which = np.unique(np.stack([source[across], target[across]]), axis=1, return_inverse=True)
    which = which.reshape(-1)
    amount = np.bincount(which, np.where(weighted, np.abs(edges.weight), 0.0)[across], pairs.shape[1])
    has_weight = np.bincount(which, weighted[across], pairs.shape[1]) > 0
    facts = zip(has_weight.tolist(), amount.tolist(), strict=True)
    ends = [[names[int(v)] for v in column] for column in pairs]
    return {
        "nodes": {names[int(v)] for v in np.unique(label)},
        "edges": dict(zip(zip(*ends, strict=True), facts, strict=True)),
        "loops": len(np.unique(source[~across])),
        "inputs": {names[int(v)] for v in label[edges.inputs]},
        "outputs": {names[int(v)] for v in label[edges.outputs]},
    }


def named(graph: StructureGraph) -> dict[str, object]:
    """A quotient by the names of its nodes."""
    edges = graph.edge_list()
    keys = [(row["space"], row["index"][0]) for row in graph.node_table()]
    pairs = ((keys[s], keys[t]) for s, t in zip(edges.source, edges.target, strict=True))
    facts = ((bool(w == w), 0.0 if w != w else float(w)) for w in edges.weight)
    return {
        "nodes": set(keys),
        "edges": dict(zip(pairs, facts, strict=True)),
        "loops": graph.num_self_loops,
        "inputs": {keys[n] for n in edges.inputs},
        "outputs": {keys[n] for n in edges.outputs},
    }


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    for part in ("nodes", "loops", "inputs", "outputs"):
        assert found[part] == expected[part], part
    assert found["edges"].keys() == expected["edges"].keys()
    mine = np.array([found["edges"][key] for key in expected["edges"]])
    theirs = np.array(list(expected["edges"].values()))
    assert np.array_equal(mine[:, 0], theirs[:, 0]), "weight edges and structural edges differ"
    np.testing.assert_allclose(mine[:, 1], theirs[:, 1], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_each_order_is_the_quotient_of_the_one_below(kind: Architecture):
    model, example = kind.make()
    graph = deepstruct.extract(model, example)
    assert graph.num_edges < 400_000
    for order in LEVELS[1:]:
        above = graph.quotient(order)
        assert_same(named(above), brute(graph, order))
        assert above.num_edges == len(above.edge_list().source)
        graph = above


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_every_way_up_leads_to_the_same_graph(kind: Architecture):
    """An order built from the model equals the quotient of every order below it."""
    model, example = kind.make()
    built = {order: deepstruct.extract(model, example, order=order) for order in LEVELS}
    for here, below in enumerate(LEVELS[:-1]):
        for order in LEVELS[here + 1 :]:
            if order == "third" and here == 0:
                continue  # the same computation as building it
            # self-loops count what the order below has within a node: channels for one, layers for another
            found, expected = named(built[below].quotient(order)), named(built[order])
            found["loops"] = expected["loops"]
            assert_same(found, expected)
