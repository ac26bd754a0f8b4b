"""The values of one order, looked up by name; and the error that says why one is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deepstruct.errors import MetricError

if TYPE_CHECKING:
    from deepstruct.metrics.base import MetricValue
    from deepstruct.report.report import Report


class NotMeasured(MetricError, KeyError):
    """A report does not hold what it was asked for; the message says why."""

    def __str__(self) -> str:
        # KeyError would show the quoted form
        return str(self.args[0]) if self.args else ""


class OrderReport(Mapping[str, Any]):
    """Metric name -> value, for the metrics of the whole graph at one order of structure."""

    def __init__(self, report: Report, order: str) -> None:
        self._report = report
        self.order = order
        self._rows = {row.name: row for row in report.rows if row.order == order and row.scope == "graph"}

    @property
    def rows(self) -> list[MetricValue]:
        """The values with what is known about each: analyzer, exactness, source."""
        return list(self._rows.values())

    def __getitem__(self, name: str) -> Any:
        row = self._rows.get(name)
        if row is None:
            raise NotMeasured(why_not(self._report, self.order, name))
        return row.value

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        from deepstruct.report.text import metrics_text

        return metrics_text(self._report, [self.order])

    def _repr_html_(self) -> str:
        from deepstruct.report.html import metrics_html

        return metrics_html(self._report, [self.order])


def why_not(report: Report, order: str, name: str) -> str:
    """Why the report has no value of this metric: skipped, of another scope, or not asked for."""
    for line in report.skipped:
        if line.order == order and line.name == name and line.kind == "metric":
            return f"{name!r} was skipped at order {order}: {line.reason}"
    for row in report.rows:
        if row.order == order and row.name == name:
            if row.scope == "node":
                return f"{name!r} has one value per node: report.nodes({order!r}, {name!r})"
            if row.scope == "layer":
                return f"{name!r} has one value per layer: report.layers({order!r})"
            return f"{name!r} has one value for the whole graph: report[{order!r}][{name!r}]"
    measured = list(dict.fromkeys(row.name for row in report.rows if row.order == order))
    close = difflib.get_close_matches(str(name), measured, n=3)
    elsewhere = list(dict.fromkeys(row.order for row in report.rows if row.name == name))
    hints = [
        f"did you mean {', '.join(close)}?" if close else "",
        f"it was measured at {', '.join(elsewhere)}" if elsewhere else "",
        f"ask for it with metrics=[{name!r}]" if not close and not elsewhere else "",
    ]
    return f"{name!r} was not measured at order {order}; " + "; ".join(hint for hint in hints if hint)
