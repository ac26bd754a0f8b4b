"""Reports as HTML: one self-contained page, small, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from deepstruct.report.numbers import shown
from deepstruct.report.text import INEXACT, UNSETTLED, honest_lines, metric_cells, skipped_text, trust

if TYPE_CHECKING:
    from deepstruct.metrics.base import MetricValue
    from deepstruct.report.report import Report
    from deepstruct.report.table import Table

STYLE = """
.deepstruct {font: 14px/1.45 system-ui, sans-serif; max-width: 72rem}
.deepstruct table {border-collapse: collapse; margin: .5rem 0 1rem}
.deepstruct th, .deepstruct td {padding: .2rem .7rem; border-bottom: 1px solid #8884; text-align: right;
  font-variant-numeric: tabular-nums; vertical-align: top}
.deepstruct th:first-child, .deepstruct td:first-child, .deepstruct .words td {text-align: left}
.deepstruct caption {text-align: left; font-weight: 600}
.deepstruct dt {font-weight: 600} .deepstruct dd {margin: 0 0 .4rem 1.2rem}
.deepstruct .small {color: #777; font-size: 12px}
"""


def page(report: Report) -> str:
    """A whole document."""
    title = escape(f"{report.model_name}: structure")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>\n'
        f"<body>\n{fragment(report)}\n</body></html>\n"
    )


def fragment(report: Report) -> str:
    """The report as one element, with its style: what a notebook shows."""
    layers = [table_html(layer) for order in report.orders if (layer := report.layers(order))]
    parts = [
        f"<style>{STYLE}</style>",
        f"<h1>{escape(report.model_name)}</h1>",
        metrics_html(report, report.orders),
        _list("How values were found", honest_lines(report), open=True),
        _details("Null models", table_html(table)) if (table := report.null_models()) else "",
        _details("Layers", "".join(layers)) if layers else "",
        _details("Conventions", _definitions(report.conventions.items()), open=True)
        if report.conventions
        else "",
        _list("Notes", report.notes),
        _skipped(report),
        _details("Definitions", _definitions(_texts(report))) if report.rows else "",
    ]
    return '<div class="deepstruct">' + "\n".join(part for part in parts if part) + "</div>"


def metrics_html(report: Report, orders: Sequence[str]) -> str:
    """Graph-scope metrics as rows, orders as columns; the exact value in the tooltip of each cell."""
    names, cells = metric_cells(report, orders)
    if not names:
        return "<p>No graph-scope metrics were computed.</p>"
    about = {(row.name, row.order): row for row in report.rows if row.scope == "graph"}
    lines = []
    for name, texts in zip(names, cells, strict=True):
        columns = []
        for order, text in zip(orders, texts, strict=True):
            row = about.get((name, order))
            tip = "" if row is None else _tip(row)
            columns.append(
                f'<td title="{escape(tip)}">{escape(text)}</td>' if tip else f"<td>{escape(text)}</td>"
            )
        lines.append(f"<tr><td>{escape(name)}</td>{''.join(columns)}</tr>")
    marks = "".join(text[-1] for texts in cells for text in texts)
    notes = [f'<p class="small">{escape(line)}</p>' for line in (INEXACT, UNSETTLED) if line[0] in marks]
    return _table(["metric", *orders], lines) + "".join(notes)


def table_html(table: Table) -> str:
    """A table, escaped, its title as the caption and its notes below."""
    lines = [
        "<tr>" + "".join(f"<td>{escape(shown(row.get(column)))}</td>" for column in table.columns) + "</tr>"
        for row in table
    ]
    notes = "".join(f'<p class="small">{escape(note)}</p>' for note in table.notes)
    return _table(table.columns, lines, table.title) + notes


def _table(columns: Sequence[str], lines: Sequence[str], caption: str = "", kind: str = "") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    name = f' class="{kind}"' if kind else ""
    body = "\n".join(lines)
    return f"<table{name}>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _skipped(report: Report) -> str:
    if not report.skipped:
        return f'<p class="small">{escape(skipped_text(report))}</p>'
    lines = [
        f"<tr><td>{escape(line.name)}</td><td>{escape(line.order)}</td><td>{escape(line.reason)}</td></tr>"
        for line in report.skipped
    ]
    return _details(
        f"Skipped ({len(lines)})", _table(["name", "order", "reason"], lines, kind="words"), open=True
    )


def _texts(report: Report) -> Iterable[tuple[str, str]]:
    """Per metric its definition and source."""
    about: dict[str, MetricValue] = {}
    for row in sorted(report.rows, key=lambda row: not row.definition):
        about.setdefault(row.name, row)
    for name in dict.fromkeys(row.name for row in report.rows):
        row = about[name]
        source = f" Source: {row.source}." if row.source else ""
        yield row.name, (row.definition or "(no definition given)") + source


def _definitions(items: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items) + "</dl>"


def _list(title: str, items: Sequence[str], open: bool = False) -> str:
    entries = "".join(f"<li>{escape(item)}</li>" for item in items)
    return _details(title, f"<ul>{entries}</ul>", open) if items else ""


def _details(title: str, body: str, open: bool = False) -> str:
    return f"<details{' open' if open else ''}><summary>{escape(title)}</summary>{body}</details>"


def _tip(row: MetricValue) -> str:
    plain = row.exact and row.converged is None and row.residual is None and not row.note
    return f"{_exact(row.value)} ({row.analyzer})" + ("" if plain else f": {trust(row)}")


def _exact(value: object) -> str:
    """All digits where they fit a tooltip."""
    return shown(value) if isinstance(value, int) and abs(value) >= 10**200 else str(value)
