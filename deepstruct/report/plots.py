"""Pictures of a report: degree distributions and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deepstruct.errors import MissingExtraError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.report.orders import NotMeasured
from deepstruct.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deepstruct.report.report import Report

_LABELS = 40  # more layers than this are numbered rather than named


def figure(report: Report, order: str | None = None) -> Figure:
    """Degree distributions to the left, edges and density of the layers to the right."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plot() needs matplotlib: pip install 'deepstruct[plot]'") from error

    if not report.orders:
        raise NotMeasured("the report has no order to plot")
    order = report.orders[0] if order is None else order
    table = report.layers(order)
    bars = _columns(table)
    drawing = Figure(figsize=(5 + 5 * len(bars), 4.2), layout="constrained")
    drawing.suptitle(f"{report.model_name}, order {order}")
    axes = drawing.subplots(1, 1 + len(bars), squeeze=False)[0]
    _degrees(axes[0], report, order)
    for axis, column in zip(axes[1:], bars, strict=True):
        _bars(axis, table, column)
    return drawing


def _columns(table: Table) -> list[str]:
    """Edges and density where they were measured, else the first two columns there are."""
    numbers = [column for column in table.columns if column != "layer"]
    return [column for column in ("edges", "density") if column in numbers] or numbers[:2]


def _degrees(axis: Any, report: Report, order: str) -> None:
    drawn = False
    for name, marker in (("in_degree", "o"), ("out_degree", "x")):
        values = _vector(report, order, name)
        if values is None or len(values) == 0:
            continue
        degree, count = np.unique(values, return_counts=True)
        axis.plot(degree, count, marker, label=name.replace("_", "-"), markersize=5, fillstyle="none")
        drawn = True
    axis.set_title("degrees")
    if not drawn:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        return
    # degree 0 has a place on this scale too
    axis.set_xscale("symlog", linthresh=1)
    axis.set_yscale("log")
    axis.set_xlabel("degree")
    axis.set_ylabel("nodes")
    axis.legend()


def _vector(report: Report, order: str, name: str) -> Any:
    """Degrees from the report, or else by one pass over the graph's operators."""
    for row in report.rows:
        if (row.order, row.name, row.scope) == (order, name, "node"):
            return row.value
    graph = report.graphs.get(order)
    if graph is None:
        return None
    from deepstruct.analyzers.operator.view import OperatorView

    return getattr(OperatorView(graph, AnalysisContext()), name)


def _bars(axis: Any, table: Table, column: str) -> None:
    rows = [row for row in table if row.get(column) is not None]
    place = np.arange(len(rows))
    values = [float(row[column]) for row in rows]
    axis.barh(place, values)
    axis.invert_yaxis()
    axis.set_title(column.replace("_", " ") + " of the layers")
    if len(rows) <= _LABELS:
        axis.set_yticks(place, [row["layer"] for row in rows], fontsize=7)
    else:
        axis.set_ylabel("layer")
    if values and min(values) >= 0 and max(values) > 1000 * max(min(values), 1):
        axis.set_xscale("symlog", linthresh=1)
