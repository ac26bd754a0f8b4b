"""Pictures of reports, drawn without a display."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepstruct.errors import MetricError, MissingExtraError
from deepstruct.metrics.base import MetricValue
from deepstruct.report import Report


def points(axis: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
        for line in axis.lines
    }


def test_degrees_and_layers(report: Report, tmp_path: Path) -> None:
    figure = report.plot(tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    degrees, edges, density = figure.axes
    assert points(degrees) == {"in-degree": [(0, 1), (1, 1), (3, 1)]}
    assert edges.get_title() == "edges of the layers"
    assert [bar.get_width() for bar in edges.patches] == [30, 6]
    assert [label.get_text() for label in edges.get_yticklabels()] == ["fc1", "fc2"]
    assert [bar.get_width() for bar in density.patches] == [0.5]


def test_degrees_come_from_the_graph_where_the_report_has_none(measured: Report) -> None:
    with_rows = points(measured.plot().axes[0])
    measured.rows = [row for row in measured.rows if row.scope == "graph"]
    assert points(measured.plot().axes[0]) == with_rows
    assert with_rows["in-degree"] == [(0, 4), (3, 2), (4, 3)]


def test_what_was_not_measured_is_said(report: Report) -> None:
    (axis,) = report.plot(order="first").axes
    assert [text.get_text() for text in axis.texts] == ["not measured"]
    with pytest.raises(MetricError, match="no order to plot"):
        Report("Net", []).plot()
    with pytest.raises(MetricError, match="'second' was not analyzed"):
        report.plot(order="second")


def test_many_layers_are_not_named(tmp_path: Path) -> None:
    layers = {f"block{k}": 10**k for k in range(60)}
    report = Report("Deep", [MetricValue("layer_edges", "zeroth", "layer", layers, "x")])
    figure = report.plot(tmp_path / "deep.svg")
    axis = figure.axes[1]
    assert len(axis.patches) == 60
    assert axis.get_ylabel() == "layer"
    assert axis.get_xscale() == "symlog"


def test_no_window_is_opened(report: Report) -> None:
    before = "matplotlib.pyplot" in sys.modules
    report.plot()
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plots_need_matplotlib(report: Report, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepstruct\[plot\]'"):
        report.plot()


def test_node_values_without_nodes() -> None:
    report = Report("Net", [MetricValue("in_degree", "zeroth", "node", np.array([], int), "x")])
    assert [text.get_text() for text in report.plot().axes[0].texts] == ["not measured"]
