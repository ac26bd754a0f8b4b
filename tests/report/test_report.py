"""Looking values up in a report, and what it says about those that are not there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deepstruct.errors import MetricError
from deepstruct.report import Report


def test_values_by_order_and_name(report: Report) -> None:
    assert report.orders == ["zeroth", "first"]
    zeroth = report["zeroth"]
    assert dict(zeroth) == {
        "nodes": 1234567,
        "path_count": 3**300,
        "density": 0.001953125,
        "radius": 15.25,
    }
    assert "nodes" in zeroth
    assert "diameter" not in zeroth
    assert zeroth.get("diameter") is None
    assert len(zeroth) == 4
    assert [row.residual for row in zeroth.rows if row.name == "radius"] == [1e-3]
    assert "zeroth" in report
    assert list(report) == ["zeroth", "first"]


@pytest.mark.parametrize(
    ("order", "name", "told"),
    [
        ("zeroth", "diameter", "'diameter' was skipped at order zeroth: needs about 4 GiB"),
        ("zeroth", "in_degree", r"one value per node: report.nodes\('zeroth', 'in_degree'\)"),
        ("zeroth", "layer_edges", r"one value per layer: report.layers\('zeroth'\)"),
        ("zeroth", "denstiy", "did you mean density"),
        ("first", "radius", "measured at zeroth"),
        ("first", "triangles", r"ask for it with metrics=\['triangles'\]"),
    ],
)
def test_a_missing_value_says_why(report: Report, order: str, name: str, told: str) -> None:
    with pytest.raises(MetricError, match=told):
        report[order][name]
    with pytest.raises(KeyError):
        report[order][name]


def test_an_order_that_was_not_analyzed(report: Report) -> None:
    with pytest.raises(MetricError, match=r"order 'second' was not analyzed; orders of this report: zeroth"):
        report["second"]
    with pytest.raises(MetricError, match="order 'third' was not analyzed: the partition has one cell"):
        report.layers("third")


def test_orders_of_plugins_come_last(report: Report) -> None:
    from deepstruct.metrics.base import MetricValue

    rows = [MetricValue("nodes", order, "graph", 1, "x") for order in ("fifth", "third", "zeroth")]
    assert Report("Net", rows).orders == ["zeroth", "third", "fifth"]


def test_layers(report: Report) -> None:
    layers = report.layers("zeroth")
    assert layers.columns == ["layer", "edges", "density"]
    assert list(layers) == [
        {"layer": "fc1", "edges": 30, "density": 0.5},
        {"layer": "fc2", "edges": 6},
    ]
    assert layers[0]["edges"] == 30
    assert layers.column("density") == [0.5, None]
    with pytest.raises(KeyError, match="no column 'width'; columns: layer, edges, density"):
        layers.column("width")
    assert list(report.layers("first")) == []
    frame = layers.to_frame()
    assert list(frame["edges"]) == [30, 6]
    assert frame["density"].isna().tolist() == [False, True]


def test_nodes_in_the_shape_of_their_space(measured: Report) -> None:
    degrees = measured.nodes("zeroth", "in_degree")
    assert {name: array.tolist() for name, array in degrees.items()} == {
        "input": [0.0] * 4,
        "layer1": [4.0] * 3,
        "layer2": [3.0] * 2,
    }
    assert measured["zeroth"]["min_vertex_cut"] == 2
    with pytest.raises(MetricError, match="'edges' has one value for the whole graph"):
        measured.nodes("zeroth", "edges")


def test_nodes_of_a_report_without_graphs(report: Report) -> None:
    with pytest.raises(MetricError, match="this report has no graph"):
        report.nodes("zeroth", "depth")


def test_conventions_read_as_a_list(report: Report) -> None:
    assert report.conventions["padding"] == "padding makes no edges"
    assert repr(report.conventions).splitlines() == [
        "  padding: padding makes no edges",
        "  zero test: a weight is an edge when it is not 0",
    ]
    assert repr(Report("Net", []).conventions) == "(no conventions recorded)"


def test_the_frame(report: Report) -> None:
    frame = report.to_frame()
    graph = frame[frame["scope"] == "graph"].set_index(["order", "metric"])["value"]
    assert graph["zeroth", "path_count"] == 3**300
    assert graph["first", "nodes"] == 12
    layers = frame[frame["metric"] == "layer_edges"].set_index("layer")["value"]
    assert layers.to_dict() == {"fc1": 30, "fc2": 6}
    assert "in_degree" not in set(frame["metric"])
    assert set(frame["model"]) == {"Net"}
    assert Report("Net", []).to_frame().empty


def test_frames_need_pandas(report: Report, monkeypatch: Any) -> None:
    import sys

    from deepstruct.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'deepstruct\[frame\]'"):
        report.to_frame()
    with pytest.raises(MissingExtraError, match=r"pip install 'deepstruct\[frame\]'"):
        report.layers("zeroth").to_frame()


def test_a_report_copies_what_it_is_given() -> None:
    notes = ["a"]
    report = Report("Net", [], notes=notes)
    notes.append("b")
    assert report.notes == ["a"]
    assert np.size(report.rows) == 0
