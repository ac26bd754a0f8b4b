"""Reports as text: what a person reads in a terminal."""

from __future__ import annotations

import json
from math import log10

import pytest

from deepstruct.metrics.base import MetricValue
from deepstruct.report import Report, Table
from deepstruct.report.numbers import digits, parse_digits, shown

GOLDEN = """\
Net

| metric     |    zeroth |     first |
|------------|-----------|-----------|
| nodes      | 1,234,567 |        12 |
| path_count | ~10^143.1 |         - |
| density    |  0.001953 |         - |
| modularity |   skipped | -0.4142 * |
| radius     |   15.25 ! |         - |
* not exact: a heuristic, a sample, or an iteration; the row says which
! did not converge: see the residual in the row

How values were found
  modularity (first): not exact; Louvain
  radius (zeroth): not exact; did not converge; residual 0.001

Conventions
  padding: padding makes no edges
  zero test: a weight is an edge when it is not 0

Notes
  one sample of the batch counts

Skipped: 2 metrics, 1 order. report.skipped has the reasons."""


def test_the_whole_report(report: Report) -> None:
    assert str(report) == GOLDEN
    assert repr(report) == GOLDEN


def test_null_models_below_the_table() -> None:
    rows = [
        MetricValue("paths", "zeroth", "graph", 5, "x", null_mean=3.0, null_std=0.5, z=4.0, null_samples=7),
        MetricValue("nodes", "zeroth", "graph", 8, "x"),
    ]
    text = str(Report("Net", rows))
    assert "Net: against null models" in text
    assert "| zeroth | paths  |     5 |         3 |      0.5 | 4 |            7 |" in text
    assert len(Report("Net", rows).null_models()) == 1


def test_one_order(report: Report) -> None:
    assert str(report["first"]) == (
        "| metric     |     first |\n"
        "|------------|-----------|\n"
        "| nodes      |        12 |\n"
        "| modularity | -0.4142 * |\n"
        "* not exact: a heuristic, a sample, or an iteration; the row says which"
    )


def test_layers(report: Report) -> None:
    assert str(report.layers("zeroth")) == (
        "Net: layers at order zeroth\n"
        "| layer | edges | density |\n"
        "|-------|-------|---------|\n"
        "| fc1   |    30 |     0.5 |\n"
        "| fc2   |     6 |       - |"
    )
    assert str(report.layers("first")) == "Net: layers at order first\n(no rows)"


def test_the_report_without_anything() -> None:
    text = str(Report("Net", []))
    assert text == "Net\n\n(no graph-scope metrics were computed)\n\nNothing was skipped."


def test_names_are_no_markup() -> None:
    report = Report("[bold]Net[/bold]", [MetricValue("[red]m[/red]", "zeroth", "graph", 1, "x")])
    assert "| [red]m[/red] |" in str(report)
    assert str(report).startswith("[bold]Net[/bold]\n")


def test_long_names_are_not_cut() -> None:
    name = "encoder." * 60 + "weight"
    assert name in str(Table(["layer", "edges"], [{"layer": name, "edges": 1}]))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (-1234567, "-1,234,567"),
        (10**15 - 1, "999,999,999,999,999"),
        (10**15, "~10^15.0"),
        (-(10**20), "-~10^20.0"),
        (10**4000, "~10^4000.0"),
        (0.0, "0"),
        (0.25, "0.25"),
        (2 / 3, "0.6667"),
        (0.00001234, "1.234e-05"),
        (12345.678, "12,345.7"),
        (3.2e12, "3.200e+12"),
        (float("nan"), "-"),
        (True, "True"),
        ("dense", "dense"),
        ('{"1": 0.5}', '{"1": 0.5}'),
        (json.dumps({"bounds": list(range(99))}), '{"bounds": [0, 1, 2, 3, 4, 5, 6, 7,  ...'),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(("base", "power"), [(0, 1), (7, 1), (-7, 1), (10, 3999), (10, 4000), (-3, 20001)])
def test_integers_of_any_length(base: int, power: int) -> None:
    value = base**power
    text = digits(value)
    assert parse_digits(text) == value
    assert text.removeprefix("-").isdigit()
    assert len(text.removeprefix("-")) == (
        1 if abs(base) < 10 and power == 1 else int(power * log10(abs(base))) + 1
    )


def test_digits_are_those_of_python() -> None:
    assert digits(3**1000) == str(3**1000)
    assert digits(10**4000 + 1) == "1" + "0" * 3999 + "1"
