"""Reports side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deepstruct.errors import InputError
from deepstruct.report.report import Report
from deepstruct.report.table import Table


def compare(
    reports: Mapping[str, Report] | Sequence[Report],
    metrics: Iterable[str] | None = None,
    orders: Iterable[str] | None = None,
) -> Table:
    """Graph-scope values of several reports, and what the others differ from the first by.

    Args:
        reports: label -> report, or a list (labelled by model name, numbered where names repeat).
        metrics: names to show; all by default.
        orders: orders to show; all by default.

    Columns are "order", "metric", one per label, and "change" (for two reports) or "change LABEL" for each
    but the first. A change is a difference, None where a value is missing or is no number. Notes say where
    the conventions differ: such numbers do not compare. Raises InputError for fewer than two reports.
    """
    labelled = dict(reports) if isinstance(reports, Mapping) else _labelled(list(reports))
    if len(labelled) < 2:
        raise InputError(f"two reports at least are needed for a comparison, got {len(labelled)}")
    wanted = None if metrics is None else set(metrics)
    shown = None if orders is None else set(orders)
    values = {
        label: {(row.order, row.name): row.value for row in report.rows if row.scope == "graph"}
        for label, report in labelled.items()
    }
    ranks = list(dict.fromkeys(order for report in labelled.values() for order in report.orders))
    keys = sorted(
        dict.fromkeys(key for table in values.values() for key in table), key=lambda k: ranks.index(k[0])
    )
    first, *others = labelled
    changes = {label: "change" if len(others) == 1 else f"change {label}" for label in others}
    rows = []
    for order, name in keys:
        if (wanted is None or name in wanted) and (shown is None or order in shown):
            row: dict[str, Any] = {"order": order, "metric": name}
            row |= {label: values[label].get((order, name)) for label in labelled}
            row |= {column: difference(row[first], row[label]) for label, column in changes.items()}
            rows.append(row)
    columns = ["order", "metric", *labelled, *changes.values()]
    return Table(columns, rows, "Comparison", _differing_conventions(labelled))


def difference(before: Any, after: Any) -> int | float | None:
    """`after - before` for numbers, else None. Integers stay exact."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, after)):
        change: int | float = after - before
        return change
    return None


def _labelled(reports: list[Report]) -> dict[str, Report]:
    names = [report.model_name for report in reports]
    return {
        name if names.count(name) == 1 else f"{name} ({names[:place].count(name) + 1})": report
        for place, (name, report) in enumerate(zip(names, reports, strict=True))
    }


def _differing_conventions(labelled: Mapping[str, Report]) -> list[str]:
    topics = dict.fromkeys(topic for report in labelled.values() for topic in report.conventions)
    notes = []
    for topic in topics:
        kinds = {label: report.conventions.get(topic, "(not stated)") for label, report in labelled.items()}
        if len(set(kinds.values())) > 1:
            listed = "; ".join(f"{label}: {text}" for label, text in kinds.items())
            notes.append(f"conventions differ in {topic}, so the numbers may not compare: {listed}")
    return notes
