"""Reports in files: strict JSON there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepstruct.errors import InputError
from deepstruct.metrics.base import MetricValue
from deepstruct.report import Report


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_there_and_back(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert path.read_text(encoding="utf-8") == text
    again = Report.from_json(path)
    assert again.to_dict() == report.to_dict()
    assert str(again) == str(report)
    for before, after in zip(report.rows, again.rows, strict=True):
        if before.scope == "node":
            assert after.value.dtype == before.value.dtype
            np.testing.assert_array_equal(after.value, before.value)
        else:
            assert after == before
    assert again.skipped == report.skipped
    assert again.settings["orders"] == ["zeroth", "first"]
    assert "len" in again.settings["partition"]


def test_json_is_strict_and_exact(report: Report) -> None:
    data = strict(report.to_json())
    values = {(row["name"], row["order"]): row["value"] for row in data["rows"]}
    assert values["path_count", "zeroth"] == 3**300
    assert values["depth", "zeroth"] == [0.0, None, 2.0]
    assert values["in_degree", "zeroth"] == [0, 3, 1]
    assert data["skipped"][0]["estimate_bytes"] == 4 << 30


def test_integers_beyond_the_interpreters_limit(tmp_path: Path) -> None:
    count = 7**9000  # 7,606 digits
    report = Report("Deep", [MetricValue("path_count", "zeroth", "graph", count, "igraph")])
    report.to_json(tmp_path / "deep.json")
    assert Report.from_json(tmp_path / "deep.json")["zeroth"]["path_count"] == count
    assert "~10^7605.9" in str(report)
    assert "~10^7605.9" in report.to_html()


def test_arrays_with_infinity_and_without_entries() -> None:
    rows = [
        MetricValue("a", "zeroth", "node", np.array([1.0, np.inf, -np.inf, np.nan]), "x"),
        MetricValue("b", "zeroth", "node", np.array([]), "x"),
        MetricValue("c", "zeroth", "node", np.array([True, False]), "x"),
        MetricValue("d", "zeroth", "node", np.array([[1.0, np.nan], [2.0, 3.0]]), "x"),
    ]
    text = Report("Net", rows).to_json()
    again = Report.from_dict(strict(text))
    for before, after in zip(rows, again.rows, strict=True):
        np.testing.assert_array_equal(after.value, before.value)


def test_what_is_no_report(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{nonsense", encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.json is no JSON"):
        Report.from_json(path)
    with pytest.raises(InputError, match="this is no report"):
        Report.from_dict({"rows": []})
    with pytest.raises(InputError, match="this is no report"):
        Report.from_dict([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has format 99; this version reads 1"):
        Report.from_dict({"model": "Net", "rows": [], "format": 99})


def test_fields_of_a_later_version_are_ignored(report: Report) -> None:
    data = report.to_dict()
    for row in data["rows"]:
        row["color"] = "green"
    assert Report.from_dict(data).to_dict() == report.to_dict()


def test_null_models_survive(tmp_path) -> None:
    rows = [
        MetricValue("a", "zeroth", "graph", 5, "x", null_mean=3.0, null_std=0.5, z=4.0, null_samples=7),
        MetricValue("b", "zeroth", "graph", 5, "x", null_mean=10**400, null_std=0.0, z=float("nan"), null_samples=2),
        MetricValue("c", "zeroth", "graph", 5, "x", exact=False, residual=1e-9, converged=False, note="stopped"),
    ]
    Report("Net", rows).to_json(tmp_path / "r.json")
    a, b, c = Report.from_json(tmp_path / "r.json").rows
    assert a == rows[0]
    assert (b.null_mean, b.null_samples) == (10**400, 2)
    assert b.z != b.z
    assert c == rows[2]
    frame = Report("Net", rows).to_frame()
    assert frame["z"].tolist()[0] == 4.0
    assert frame["residual"].tolist()[2] == 1e-9
