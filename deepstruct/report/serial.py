"""Reports as dicts and strict JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepstruct.errors import InputError
from deepstruct.metrics.base import MetricValue, Skipped
from deepstruct.report.numbers import digits, parse_digits
from deepstruct.report.report import Report

FORMAT = 1
FRAME_COLUMNS = (
    "model", "order", "metric", "scope", "layer", "value", "analyzer", "exact", "residual", "converged",
    "note", "source", "provider", "seconds", "null_mean", "null_std", "z", "null_samples",
)  # fmt: skip
_LONG = 10**4000  # the standard encoder refuses integers a little longer than this


def report_to_dict(report: Report) -> dict[str, Any]:
    """See `Report.to_dict`."""
    return {
        "format": FORMAT,
        "model": report.model_name,
        "settings": plain(report.settings),
        "conventions": dict(report.conventions),
        "notes": list(report.notes),
        "rows": [plain(_fields(row)) for row in report.rows],
        "skipped": [plain(_fields(line)) for line in report.skipped],
    }


def report_from_dict(data: Mapping[str, Any]) -> Report:
    """See `Report.from_dict`."""
    if not isinstance(data, Mapping) or "rows" not in data or "model" not in data:
        raise InputError("this is no report: a dict with 'model' and 'rows' was expected")
    if data.get("format") != FORMAT:
        raise InputError(f"the report has format {data.get('format')!r}; this version reads {FORMAT}")
    return Report(
        data["model"],
        [_metric_value(row) for row in data["rows"]],
        [Skipped(**_known(Skipped, line)) for line in data.get("skipped", ())],
        data.get("conventions"),
        data.get("notes", ()),
        settings=data.get("settings"),
    )


def _fields(item: Any) -> dict[str, Any]:
    # not dataclasses.asdict: it would copy arrays entry by entry
    return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}


def _known(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: row[field.name] for field in dataclasses.fields(kind) if field.name in row}


def _metric_value(row: Mapping[str, Any]) -> MetricValue:
    fields = _known(MetricValue, row)
    if fields["scope"] == "node":
        fields["value"] = _array(fields["value"])
    if fields.get("null_samples") is not None:  # NaN is None in JSON
        fields["z"] = _real(fields.get("z"))
    return MetricValue(**fields)


def _array(values: list[Any]) -> np.ndarray:
    if any(value is None or isinstance(value, (str, list)) for value in values):
        return np.array([_array(v) if isinstance(v, list) else _real(v) for v in values], float)
    return np.array(values)


def _real(value: Any) -> float:
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN is None, infinity a string, what is no data its `repr`."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(entry) for entry in value), key=repr)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)


def dumps(data: Any) -> str:
    """Strict JSON of what `plain` made, integers of any length included."""
    long: list[int] = []

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [marked(entry) for entry in value]
        if isinstance(value, int) and abs(value) >= _LONG:
            long.append(value)
            return f"\0{len(long) - 1}\0"
        return value

    text = json.dumps(marked(data), indent=1, allow_nan=False, ensure_ascii=False)
    for index, value in enumerate(long):
        text = text.replace(f'"\\u0000{index}\\u0000"', digits(value))
    return text


def loads(text: str, where: str = "the text") -> Any:
    """What `dumps` wrote. Raises InputError, naming `where`, when it is no JSON."""
    try:
        return json.loads(text, parse_int=parse_digits)
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}") from error


def frame_rows(report: Report) -> list[dict[str, Any]]:
    """The lines of `Report.to_frame`."""
    rows = []
    for row in report.rows:
        if row.scope == "node":
            continue
        entries = row.value.items() if row.scope == "layer" else [(None, row.value)]
        for layer, value in entries:
            about = {column: getattr(row, column) for column in FRAME_COLUMNS[6:]}
            head = {"model": report.model_name, "order": row.order, "metric": row.name, "scope": row.scope}
            rows.append({**head, "layer": layer, "value": value, **about})
    return rows
