"""Pictures of graphs: where nodes and edges go, what is written, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import deepstruct
from deepstruct.errors import CapacityError, InputError
from deepstruct.report import matrix
from deepstruct.report.draw import describe
from deepstruct.report.layout import layered

SIGNATURES = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}


class Residual(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.inner = nn.ModuleList(nn.Linear(6, 4) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(4, 6) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(torch.relu(inner(x)))
        return x


def graph(blocks: int = 3, order: str = "second"):
    return deepstruct.extract(Residual(blocks), torch.randn(1, 6), order=order)


dags = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.just(n), st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] != e[1]))
    )
)


@settings(deadline=None)
@given(dags, st.integers(1, 4))
def test_nodes_have_places_of_their_own_and_edges_join_them(drawn, columns):
    count, edges = drawn
    edges = sorted(edges)
    layout = layered(count, edges, columns)
    assert len(set(layout.nodes)) == count
    for (a, b), pieces, folded in zip(edges, layout.routes, layout.folded, strict=True):
        assert pieces[0][0] == layout.nodes[a]
        assert pieces[-1][-1] == layout.nodes[b]
        assert folded == (len(pieces) > 1)
        if not folded:  # a bend in every rank between the ends, and nowhere else
            ranks = [y for _, y in pieces[0]]
            step = 1 if a < b else -1
            assert ranks == list(range(round(ranks[0]), round(ranks[-1]) + step, step))
    for x, y in layout.nodes:
        assert 0 <= x <= layout.width
        assert 0 <= y < layout.height
    assert 1 <= layout.columns <= columns


def test_a_deep_chain_is_folded_and_one_column_is_obeyed():
    chain = [(k, k + 1) for k in range(79)]
    assert layered(80, chain, None).columns > 1
    straight = layered(80, chain, 1)
    assert straight.columns == 1
    assert [y for _, y in straight.nodes] == list(range(80))


def test_an_empty_graph_has_an_empty_layout():
    assert layered(0, [], None).nodes == []


def test_every_layer_is_labelled_and_described():
    layers = graph()
    svg = layers.draw().svg
    for space in layers.spaces:
        assert space.name in svg
        assert describe(layers, space) in svg
    cells = graph(order="third")
    assert describe(cells, cells.spaces[0]) == "1 x 6"
    whole = deepstruct.extract(Residual(2), torch.randn(1, 6), order="third", partition=lambda space: "all")
    assert [describe(whole, space) for space in whole.spaces] == ["5 layers, 26 units"]


def test_one_arrow_for_every_edge():
    layers = graph(2)
    patches = layers.draw(columns=1).figure.axes[0].patches
    names = [type(patch).__name__ for patch in patches]
    assert names.count("FancyBboxPatch") == layers.num_nodes
    assert names.count("FancyArrowPatch") == layers.num_edges


@pytest.mark.parametrize("kind", ["layered", "matrix", "strips"])
@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_files(kind, ending, tmp_path):
    path = tmp_path / f"picture.{ending}"
    drawing = graph().draw(path, kind=kind)
    assert drawing.kind == kind
    assert path.read_bytes().startswith(SIGNATURES[ending])


@pytest.mark.parametrize("kind", ["layered", "matrix", "strips"])
def test_the_same_graph_gives_the_same_text(kind):
    layers = graph()
    first, second = layers.draw(kind=kind), layers.draw(kind=kind)
    assert first.svg == second.svg
    assert first._repr_svg_() == first.svg
    assert re.search(r"<svg", first.svg)


@pytest.mark.parametrize("order", ["zeroth", "first"])
def test_cells_of_a_matrix_hold_every_pair_once(order):
    units = graph(2, order)
    bounds, cell, spaces = matrix._cells(units)
    assert cell.shape == (units.num_nodes,)
    assert (np.diff(cell) >= 0).all()
    counts = matrix._shares(units, cell, int(bounds[-1]))
    pairs = np.unique(np.argwhere(units.to_scipy().toarray() > 0), axis=0)
    expected = np.zeros_like(counts)
    np.add.at(expected, (cell[pairs[:, 0]], cell[pairs[:, 1]]), 1)
    assert (counts == expected).all()
    assert len(spaces) == len(bounds) - 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=2000))
def test_strips_keep_the_mean(values):
    binned = matrix._binned(np.array(values))
    assert binned.shape == (matrix._BINS,)
    if len(values) % matrix._BINS == 0 or matrix._BINS % len(values) == 0:
        assert binned.mean() == pytest.approx(np.mean(values))
    assert min(values) <= binned.min()
    assert binned.max() <= max(values)


def test_auto_takes_what_suits_the_order():
    assert graph(order="third").draw().kind == "layered"
    wide = deepstruct.extract(nn.Linear(60, 60), torch.randn(1, 60))
    assert wide.draw().kind == "matrix"
    assert matrix.suited(deepstruct.extract(nn.Linear(7000, 7000), torch.randn(1, 7000))) == "strips"


def test_cycles_are_drawn():
    import networkx as nx

    from deepstruct.structure.graph import StructureGraph

    cycle = StructureGraph.from_networkx(nx.DiGraph([(0, 1), (1, 2), (2, 1), (2, 3)]))
    dashed = [p for p in cycle.draw(kind="layered").figure.axes[0].patches if p.get_linestyle() == "--"]
    assert len(dashed) == 1


def test_bad_requests(tmp_path):
    layers = graph()
    with pytest.raises(InputError, match="kind of drawing"):
        layers.draw(kind="round")
    with pytest.raises(InputError, match=r"\.svg"):
        layers.draw(tmp_path / "picture.bmp")
    with pytest.raises(InputError, match="columns"):
        layers.draw(columns=0)
    large = deepstruct.extract(nn.Linear(7000, 7000), torch.randn(1, 7000))
    with pytest.raises(InputError, match="too many"):
        large.draw(kind="layered")
    with pytest.raises(CapacityError, match="strips"):
        large.draw(kind="matrix")
