"""quotient(k) == order k + 1 on real architectures: by brute force over all edges, and by every way up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deepstruct
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.orders.higher import PARTITIONS
from tests.zoo.architectures import ZOO, Architecture, require, tokens

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
    label = graph.slots_to_nodes(labels.tensor(), "max")
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
        expected = brute(graph, order)
        if graph.self_loops is not None:  # what was dropped below is still there
            labels, _, _ = PARTITIONS[order][0](graph)
            across = graph.edge_list()
            label = graph.slots_to_nodes(labels.tensor(), "max")
            within = label[across.source] == label[across.target]
            looped = {*label[across.source[within]], *label[graph.self_loops.numpy()]}
            expected["loops"] = len(looped)
        assert_same(named(above), expected)
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
            assert_same(named(built[below].quotient(order)), named(built[order]))


def test_a_llama_without_values_has_the_structure_of_one_with_them():
    """Masks and rotations are evaluated although the weights are on the meta device: the same edges at every order."""
    t = require("transformers")
    config = t.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    real = t.LlamaForCausalLM(config).eval()
    with torch.device("meta"):
        fake = t.LlamaForCausalLM(config).eval()
    assert all(p.is_meta for p in fake.parameters())
    kept = dict(real.named_buffers())  # frequencies of rotations: as checkpoints that are loaded lazily keep them
    for path, module in fake.named_modules():
        for name in list(module._buffers):
            module._buffers[name] = kept[f"{path}.{name}" if path else name].clone()
    assert all(bool((p != 0).all()) for p in real.parameters())
    example = {"input_ids": tokens(5)}
    for order in LEVELS:
        graphs = [deepstruct.extract(model, example, order=order) for model in (real, fake)]
        lists = [graph.edge_list() for graph in graphs]
        assert np.array_equal(lists[0].source, lists[1].source)
        assert np.array_equal(lists[0].target, lists[1].target)
        assert np.array_equal(np.isnan(lists[0].weight), np.isnan(lists[1].weight))
        assert graphs[0].num_weights == graphs[1].num_weights
        assert graphs[0].num_nonzero_weights == graphs[1].num_nonzero_weights
        assert graphs[0].num_self_loops == graphs[1].num_self_loops


@pytest.mark.parametrize("kind", SMALL, ids=str)
def test_self_loops_are_those_of_the_zeroth_order(kind: Architecture):
    """A node has a self-loop when edges between units run within it, by whatever way it was made."""
    graph = deepstruct.extract(*kind.make())
    first = graph.quotient("first")
    second = graph.quotient("second")
    direct = brute(graph, "second")["loops"]
    assert second.num_self_loops == first.quotient("second").num_self_loops == direct
    assert second.quotient("third").num_self_loops == graph.quotient("third").num_self_loops
    assert graph.quotient("third").num_self_loops == brute(graph, "third")["loops"]
