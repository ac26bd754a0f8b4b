"""Pictures of graphs with many nodes: the adjacency matrix in cells, or a strip of units for each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deepstruct.errors import CapacityError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.space import Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELLS = 700  # cells of a matrix to each side, at most
_MOST_EDGES = 40_000_000  # edges that are written down for a matrix
_BINS = 256  # cells of a strip
_NAMED = 60  # names along the side of a matrix, at most


def suited(graph: StructureGraph) -> str:
    """ "matrix" where the edges can be written down in moderate memory, else "strips"."""
    return "matrix" if 0 < graph.num_edges <= _MOST_EDGES and graph.num_nodes <= _MOST_EDGES else "strips"


def figure(graph: StructureGraph) -> Figure:
    """The adjacency matrix: readers down, what they read across, cells shaded by the share of pairs with an edge.

    Layers have the widths of their numbers of nodes, but none less than a few cells, so that narrow ones are seen.
    Raises CapacityError for more edges than can be written down.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    if graph.num_edges > _MOST_EDGES:
        raise CapacityError(
            f"a matrix of {graph.num_edges:,} edges is not drawn (the most are {_MOST_EDGES:,}): "
            'take kind="strips", or a higher order'
        )
    bounds, cell, spaces = _cells(graph)
    count, size = int(bounds[-1]), np.bincount(cell, minlength=int(bounds[-1]))
    shares = _shares(graph, cell, count) / np.maximum(np.outer(size, size), 1)
    drawing = Figure(figsize=(8.6, 7.6), layout="constrained")
    axes = drawing.subplots()
    shown = np.ma.masked_equal(shares.T, 0)
    low = float(shown.min()) if shown.count() else 1.0
    image = axes.imshow(
        shown, cmap="viridis_r", norm=LogNorm(vmin=min(low, 0.5), vmax=1.0, clip=True), interpolation="nearest"
    )
    drawing.colorbar(image, ax=axes, shrink=0.7, label="share of pairs of nodes with an edge")
    for bound in bounds[1:-1]:
        axes.axhline(bound - 0.5, color="#cccccc", lw=0.4)
        axes.axvline(bound - 0.5, color="#cccccc", lw=0.4)
    middles = (bounds[:-1] + bounds[1:]) / 2 - 0.5
    names = _names(spaces, bounds)
    axes.set_yticks(middles, names, fontsize=6)
    axes.set_xticks(middles, names, fontsize=6, rotation=90)
    axes.set_xlabel("from")
    axes.set_ylabel("to")
    axes.set_title(_title(graph), fontsize=10)
    return drawing


def _cells(graph: StructureGraph) -> tuple[np.ndarray, np.ndarray, list[Space]]:
    """First cell of every layer with nodes (and the end), the cell of every node, and these layers."""
    spaces = [space for space in graph.spaces if graph.nodes_in(space)]
    counts = np.array([graph.nodes_in(space) for space in spaces])
    narrow = max(3, _CELLS // (6 * len(spaces)))  # a layer's least cells
    scale = max(1.0, counts.sum() / _CELLS)
    cells = np.minimum(counts, np.maximum(narrow, np.ceil(counts / scale))).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(cells)])
    parts = [first + np.arange(n) * c // n for first, n, c in zip(bounds[:-1], counts, cells, strict=True)]
    return bounds, np.concatenate(parts), spaces


def _shares(graph: StructureGraph, cell: np.ndarray, count: int) -> np.ndarray:
    """Edges between every two cells, (count, count), parallel ones once."""
    csr = graph.to_csr()
    out = np.zeros(count * count, dtype=np.int64)
    step = 1 << 22  # edges at a time
    degree = np.diff(csr.indptr)
    row = 0
    while row < csr.num_nodes:
        stop = int(np.searchsorted(csr.indptr, csr.indptr[row] + step, side="right")) - 1
        stop = min(max(stop, row + 1), csr.num_nodes)
        source = np.repeat(np.arange(row, stop), degree[row:stop])
        target = csr.indices[csr.indptr[row] : csr.indptr[stop]]
        new = np.ones(len(source), dtype=bool)
        new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
        out += np.bincount(cell[source[new]] * count + cell[target[new]], minlength=count * count)
        row = stop
    return out.reshape(count, count)


def strips(graph: StructureGraph) -> Figure:
    """A strip of in-degrees and one of out-degrees for every layer, units in their order, and the layers' sizes.

    Each cell of a strip is the mean over the units that it stands for; units without edges show as white.
    """
    from matplotlib.figure import Figure

    spaces = [space for space in graph.spaces if graph.nodes_in(space)]
    drawing = Figure(figsize=(12, 1.6 + 0.2 * max(len(spaces), 5)), layout="constrained")
    left, middle, right = drawing.subplots(1, 3, width_ratios=(3, 3, 1.6), sharey=True)
    names = [space.name for space in spaces]
    for axes, name in ((left, "in_degree"), (middle, "out_degree")):
        _strips(axes, graph, spaces, name)
    places = np.arange(len(spaces))
    right.barh(places - 0.2, [graph.nodes_in(space) for space in spaces], 0.4, label="units")
    incoming = _edges_into(graph)
    right.barh(places + 0.2, [incoming.get(name, 0) for name in names], 0.4, label="edges in")
    right.set_xscale("symlog", linthresh=1)
    right.tick_params(axis="x", labelsize=6)
    right.set_title("size", fontsize=9)
    right.legend(fontsize=7)
    left.set_yticks(places, [n if len(n) <= 28 else "…" + n[-27:] for n in names], fontsize=6)
    drawing.suptitle(_title(graph), fontsize=10)
    return drawing


def _strips(axes: Axes, graph: StructureGraph, spaces: list[Space], name: str) -> None:
    from matplotlib.colors import SymLogNorm

    values = node_vector(graph, name)
    rows = np.full((len(spaces), _BINS), np.nan)
    start = 0
    for k, space in enumerate(spaces):
        count = graph.nodes_in(space)
        rows[k] = _binned(values[start : start + count])
        start += count
    top = float(np.nanmax(rows)) if rows.size else 1.0
    image = axes.imshow(
        np.ma.masked_equal(rows, 0), aspect="auto", cmap="viridis_r", interpolation="nearest",
        norm=SymLogNorm(linthresh=1, vmin=0, vmax=max(top, 1.0)), extent=(0, 1, len(spaces) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_xticks([0, 1], ["first", "last unit"], fontsize=7)
    axes.set_title(name.replace("_", "-"), fontsize=9)
    axes.figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8, pad=0.02)


def _binned(values: np.ndarray) -> np.ndarray:
    """Means over `_BINS` parts of equal length; a shorter vector is stretched."""
    if len(values) <= _BINS:
        return values[np.arange(_BINS) * len(values) // _BINS].astype(np.float64)
    first = np.arange(_BINS) * len(values) // _BINS
    return np.add.reduceat(values.astype(np.float64), first) / np.diff([*first, len(values)])


def node_vector(graph: StructureGraph, name: str) -> np.ndarray:
    """In- or out-degree of every node, by one pass over the operators."""
    from deepstruct.analyzers.operator.view import OperatorView

    return np.asarray(getattr(OperatorView(graph, AnalysisContext()), name))


def _edges_into(graph: StructureGraph) -> dict[str, int]:
    """Edges by the name of the layer that reads."""
    totals: dict[str, int] = {}
    for op, edges in zip(graph.operators, graph.operator_edges, strict=True):
        totals[op.name] = totals.get(op.name, 0) + edges
    return totals


def _names(spaces: list[Space], bounds: np.ndarray) -> list[str]:
    """A name for each layer where there is room for it."""
    room, last, names = int(bounds[-1]) / _NAMED, -np.inf, []
    for space, middle in zip(spaces, (bounds[:-1] + bounds[1:]) / 2, strict=True):
        fits = middle - last >= room
        last = middle if fits else last
        names.append((space.name if len(space.name) <= 26 else "…" + space.name[-25:]) if fits else "")
    return names


def _title(graph: StructureGraph) -> str:
    return f"{graph.name}, {graph.order} order: {graph.num_nodes:,} nodes, {graph.num_edges:,} edges"
