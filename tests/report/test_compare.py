"""Reports side by side."""

from __future__ import annotations

import pytest

from deepstruct.errors import InputError
from deepstruct.metrics.base import MetricValue
from deepstruct.report import Report, compare


def make(name: str, padding: str = "none", **values: object) -> Report:
    rows = [MetricValue(metric, "zeroth", "graph", number, "x") for metric, number in values.items()]
    return Report(name, rows, conventions={"padding": padding})


def test_two_reports() -> None:
    table = compare(
        {"dense": make("Net", edges=10**40, kind="a"), "pruned": make("Net", edges=10**40 - 1, loops=2)}
    )
    assert table.columns == ["order", "metric", "dense", "pruned", "change"]
    assert list(table) == [
        {"order": "zeroth", "metric": "edges", "dense": 10**40, "pruned": 10**40 - 1, "change": -1},
        {"order": "zeroth", "metric": "kind", "dense": "a", "pruned": None, "change": None},
        {"order": "zeroth", "metric": "loops", "dense": None, "pruned": 2, "change": None},
    ]
    assert table.notes == []


def test_three_reports_are_compared_with_the_first() -> None:
    table = compare([make("A", edges=1), make("B", edges=3), make("B", edges=0.5)])
    assert table.columns == ["order", "metric", "A", "B (1)", "B (2)", "change B (1)", "change B (2)"]
    assert table[0]["change B (1)"] == 2
    assert table[0]["change B (2)"] == -0.5
    assert str(table).splitlines() == [
        "Comparison",
        "| order  | metric | A | B (1) | B (2) | change B (1) | change B (2) |",
        "|--------|--------|---|-------|-------|--------------|--------------|",
        "| zeroth | edges  | 1 |     3 |   0.5 |            2 |         -0.5 |",
    ]
    assert table.to_frame()["B (2)"].tolist() == [0.5]


def test_a_choice_of_metrics_and_orders(report: Report) -> None:
    assert [row["metric"] for row in compare([report, report], metrics=["nodes"])] == ["nodes", "nodes"]
    assert [row["metric"] for row in compare([report, report], orders=["first"])] == ["nodes", "modularity"]


def test_differing_conventions_are_told() -> None:
    (note,) = compare([make("A", "none", edges=1), make("B", "counted", edges=2)]).notes
    assert note == "conventions differ in padding, so the numbers may not compare: A: none; B: counted"


def test_one_report_is_no_comparison() -> None:
    with pytest.raises(InputError, match="two reports at least are needed for a comparison, got 1"):
        compare([make("A", edges=1)])
