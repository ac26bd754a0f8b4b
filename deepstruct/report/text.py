"""Reports as plain text: tables in ASCII, conventions and what was skipped below them."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from deepstruct.metrics.base import MetricValue
from deepstruct.report.numbers import MISSING, shown

if TYPE_CHECKING:
    from deepstruct.report.report import Report
    from deepstruct.report.table import Table

WIDTH = 110
INEXACT = "* not exact: a heuristic, a sample, or an iteration; the row says which"
UNSETTLED = "! did not converge: see the residual in the row"


def table_text(table: Table) -> str:
    """A table as text, its title above and its notes below."""
    cells = [[shown(row.get(column)) for column in table.columns] for row in table]
    body = grid(table.columns, cells) if cells else "(no rows)"
    return "\n".join(part for part in (table.title, body, *(wrapped(note) for note in table.notes)) if part)


def report_text(report: Report) -> str:
    """The whole report: metrics as rows, orders as columns, then conventions, notes, what was skipped."""
    parts = [report.model_name, "", metrics_text(report, report.orders)]
    if remarks := honest_lines(report):
        parts += ["", "How values were found", *(wrapped(line, "  ") for line in remarks)]
    if table := report.null_models():
        parts += ["", table_text(table)]
    if report.conventions:
        parts += ["", "Conventions", *listed(report.conventions)]
    if report.notes:
        parts += ["", "Notes", *(wrapped(note, "  ") for note in report.notes)]
    parts += ["", skipped_text(report)]
    return "\n".join(parts)


def metrics_text(report: Report, orders: Sequence[str]) -> str:
    """Graph-scope metrics as rows, `orders` as columns."""
    names, cells = metric_cells(report, orders)
    if not names:
        return "(no graph-scope metrics were computed)"
    body = grid(["metric", *orders], [[name, *row] for name, row in zip(names, cells, strict=True)])
    marks = "".join(entry[-1] for row in cells for entry in row)
    return "\n".join([body, *(line for line in (INEXACT, UNSETTLED) if line[0] in marks)])


def metric_cells(report: Report, orders: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Names of the graph-scope metrics, and per name one text for each order."""
    values = {(row.name, row.order): row for row in report.rows if row.scope == "graph"}
    names = list(dict.fromkeys(name for name, order in values if order in orders))
    missed = {(line.name, line.order) for line in report.skipped if line.kind == "metric"}
    return names, [
        [
            cell(values[name, order])
            if (name, order) in values
            else ("skipped" if (name, order) in missed else MISSING)
            for order in orders
        ]
        for name in names
    ]


def cell(row: MetricValue) -> str:
    """A value with its mark: `*` when it is not exact, `!` when an iteration did not converge."""
    mark = " !" if row.converged is False else "" if row.exact else " *"
    return shown(row.value) + mark


def honest_lines(report: Report) -> list[str]:
    """One line for every graph- or layer-scope metric that is not exact: how far it can be trusted, and why."""
    orders: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        if row.scope != "node" and (not row.exact or row.converged is False):
            orders.setdefault((row.name, trust(row)), []).append(row.order)
    return [f"{name} ({', '.join(found)}): {how}" for (name, how), found in orders.items()]


def trust(row: MetricValue) -> str:
    """What is known about how a value was found: exact or not, residual, convergence, and the note."""
    parts = ["exact" if row.exact else "not exact"]
    if row.converged is not None:
        parts.append("converged" if row.converged else "did not converge")
    if row.residual is not None:
        parts.append(f"residual {row.residual:.3g}")
    if row.note:
        parts.append(row.note)
    return "; ".join(parts)


def skipped_text(report: Report) -> str:
    """One line about how much was left out, and where to read why."""
    if not report.skipped:
        return "Nothing was skipped."
    kinds = Counter(line.kind for line in report.skipped)
    counts = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.items())
    return f"Skipped: {counts}. report.skipped has the reasons."


def listed(items: Mapping[str, str]) -> list[str]:
    """`key: value` lines, indented and wrapped."""
    return [wrapped(f"{key}: {value}", "  ") for key, value in items.items()]


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        str(text), WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False
    )


def grid(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """An ASCII table; the first column to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    rows = [list(row) for row in cells]
    table = RichTable(box=box.MARKDOWN, show_edge=True)
    for position, column in enumerate(columns):
        words = position == 0 or not any(_is_number(row[position]) for row in rows)
        # Text, since names may hold what rich takes for markup
        table.add_column(Text(column), justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(entry) for entry in row))
    out = io.StringIO()
    Console(file=out, width=1 << 14, color_system=None, force_terminal=False, legacy_windows=False).print(
        table
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:2] in ("~1", "-~") or (text[:1] == "-" and text[1:2].isdigit())
