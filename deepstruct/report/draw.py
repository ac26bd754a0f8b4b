"""Pictures of graphs: layers and cells as a layered drawing, units and channels as a matrix or as strips."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError, MissingExtraError
from deepstruct.report.layout import Layout, Point, layered
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.space import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
KINDS = ("auto", "layered", "matrix", "strips")
_FILL = {"source": "#e8f1e4", "output": "#fdeecf", "weighted": "#dfe9f7", "structural": "#f1f1f1"}
_WEIGHT, _STRUCTURAL = "#3b6fb6", "#9a9a9a"
_ACROSS, _DOWN = 1.75, 0.62  # inches of a node with its gap, and of a rank
_BOX = (1.55, 0.40)
_MOST_NODES = 2000


@dataclass
class Drawing:
    """A picture of a graph: shown by notebooks, written by `save`.

    Attributes:
        kind: "layered", "matrix" or "strips".
        figure: the matplotlib figure.
    """

    kind: str
    figure: Figure

    @cached_property
    def svg(self) -> str:
        """The picture as SVG text; the same graph gives the same text."""
        return self._written("svg").decode()

    def save(self, path: str | Path) -> Path:
        """Write .svg, .png or .pdf, by the ending of the path. Raises InputError for another ending."""
        place = Path(path)
        if place.suffix.lower() not in FORMATS:
            raise InputError(f"cannot draw to {str(place)!r}: the ending must be one of {', '.join(FORMATS)}")
        place.write_bytes(self._written(place.suffix.lower()[1:]))
        return place

    def _repr_svg_(self) -> str:
        return self.svg

    def _written(self, kind: str) -> bytes:
        import matplotlib

        out = io.BytesIO()
        if self.figure.get_layout_engine() is not None:  # it would move things a little at every drawing
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")
        # Without a salt and with a date, two pictures of one graph would differ.
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with matplotlib.rc_context({"svg.hashsalt": "deepstruct", "svg.fonttype": "none"}):
            self.figure.savefig(out, format=kind, metadata=metadata, dpi=110)
        return out.getvalue()


def draw(graph: StructureGraph, kind: str = "auto", columns: int | None = None) -> Drawing:
    """Draw a graph. Arguments and errors as for `StructureGraph.draw`."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("draw() needs matplotlib: pip install 'deepstruct[plot]'") from error
    from deepstruct.report import matrix

    if kind not in KINDS:
        raise InputError(f"unknown kind of drawing {kind!r}: choose from {', '.join(KINDS)}")
    if columns is not None and (not isinstance(columns, int) or isinstance(columns, bool) or columns < 1):
        raise InputError(f"columns must be an integer of at least 1, got {columns!r}")
    if kind == "auto":
        small = graph.num_nodes <= 40 and graph.num_edges <= 400
        kind = "layered" if graph.order in ("second", "third") or small else matrix.suited(graph)
    if kind == "layered":
        return Drawing(kind, _layered_figure(graph, columns))
    return Drawing(kind, matrix.figure(graph) if kind == "matrix" else matrix.strips(graph))


def _layered_figure(graph: StructureGraph, columns: int | None) -> Figure:
    from matplotlib.figure import Figure

    if graph.num_nodes > _MOST_NODES:
        raise InputError(
            f"{graph.num_nodes:,} nodes are too many for a layered drawing (the most are {_MOST_NODES:,}): "
            'take a higher order, or kind="matrix" or "strips"'
        )
    edges, weighted = _simple_edges(graph)
    layout = layered(graph.num_nodes, edges, columns, aspect=_DOWN / _ACROSS)
    width, height = max(layout.width, 1.0) * _ACROSS + 0.3, max(layout.height, 1.0) * _DOWN + 0.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.15, width - 0.15)
    axes.set_ylim(height - 0.15, -0.15)  # down
    axes.text(0, 0.08, _title(graph), fontsize=9, va="center", fontweight="bold")
    for (a, b), pieces, weight, folded in zip(edges, layout.routes, weighted, layout.folded, strict=True):
        _edge(axes, pieces, _WEIGHT if weight else _STRUCTURAL, folded, against=a >= b)
    reads_weights = {b for (_, b), weight in zip(edges, weighted, strict=True) if weight}
    _nodes(axes, graph, layout, reads_weights)
    return figure


def _simple_edges(graph: StructureGraph) -> tuple[list[tuple[int, int]], list[bool]]:
    """Pairs of nodes with an edge, and whether one of the edges between them has a weight."""
    csr = graph.to_csr(weights=True)
    found: dict[tuple[int, int], bool] = {}
    assert csr.weights is not None
    for u in range(csr.num_nodes):
        for k in range(int(csr.indptr[u]), int(csr.indptr[u + 1])):
            pair = (u, int(csr.indices[k]))
            found[pair] = found.get(pair, False) or bool(csr.weights[k] == csr.weights[k])
    return list(found), list(found.values())


def _nodes(axes: Any, graph: StructureGraph, layout: Layout, weighted: set[int]) -> None:
    from matplotlib.patches import FancyBboxPatch

    outputs, node = set(graph.output_nodes().tolist()), 0
    for row in graph.node_table():
        node = int(row["id"])
        space = next_space(graph, str(row["space"]))
        x, y = _inches(layout.nodes[node])
        role = "source" if space.is_source else "output" if node in outputs else None
        fill = _FILL[role or ("weighted" if node in weighted else "structural")]
        box = (x - _BOX[0] / 2, y - _BOX[1] / 2)
        axes.add_patch(FancyBboxPatch(box, *_BOX, "round,pad=0,rounding_size=0.06", fc=fill, ec="#555555", lw=0.7))
        detail = describe(graph, space)
        axes.text(x, y - (0.07 if detail else 0), _short(str(row["label"])), ha="center", va="center", fontsize=7.5)
        if detail:
            axes.text(x, y + 0.1, detail, ha="center", va="center", fontsize=6, color="#555555")


def next_space(graph: StructureGraph, name: str) -> Space:
    """The space of that name."""
    return next(space for space in graph.spaces if space.name == name)


def _edge(axes: Any, pieces: list[list[Point]], colour: str, folded: bool, against: bool) -> None:
    from matplotlib.patches import FancyArrowPatch, PathPatch

    style = {"ec": colour, "lw": 1.1, "fc": "none", "ls": ":" if folded else "--" if against else "-"}
    half = _BOX[1] / 2
    for number, piece in enumerate(pieces):
        points = [_inches(point) for point in piece]
        way = 1 if points[-1][1] >= points[0][1] else -1
        if number == 0:
            points[0] = (points[0][0], points[0][1] + way * half)
        last = number == len(pieces) - 1
        if last:
            points[-1] = (points[-1][0], points[-1][1] - way * half)
        axes.add_patch(PathPatch(_curve(points), zorder=0, **style))
        tip = points[-1]
        axes.add_patch(
            FancyArrowPatch((tip[0], tip[1] - way * 0.06), tip, arrowstyle="-|>", mutation_scale=7, color=colour,
                            lw=0, shrinkA=0, shrinkB=0, zorder=1)
        )  # fmt: skip


def _curve(points: list[Point]) -> Any:
    """A smooth line through the points that leaves and enters every one of them vertically."""
    from matplotlib.path import Path as Line

    vertices, codes = [points[0]], [Line.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Line.CURVE4] * 3
    return Line(vertices, codes)


def _inches(point: Point) -> Point:
    return (point[0] + 0.5) * _ACROSS - 0.1, (point[1] + 0.5) * _DOWN + 0.3


def _short(label: str) -> str:
    return label if len(label) <= 24 else "…" + label[-23:]


def _title(graph: StructureGraph) -> str:
    return f"{graph.name}, {graph.order} order: {graph.num_nodes:,} nodes, {graph.num_edges:,} edges"


def describe(graph: StructureGraph, space: Space) -> str:
    """What a layer or cell holds: the shape of its units, or how many there are in how many layers."""
    layers = [space]
    below: StructureGraph | None = graph
    while below is not None and below.order != "zeroth":
        below = below.origin
        if below is None or not all(s.members for s in layers):
            return ""
        names = {name for s in layers for name in s.members}
        layers = [s for s in below.spaces if s.name in names]
    if below is None or below is graph:
        return ""
    if len(layers) == 1:
        return " x ".join(map(str, layers[0].shape))
    units = sum(below.nodes_in(s) for s in layers)
    return f"{len(layers)} layers, {units:,} units"
