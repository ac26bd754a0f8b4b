"""Writes docs/metrics.md from the metrics that are registered: `python docs/generate_metrics.py`.

A test compares the file with what this makes, so that the page cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepstruct.metrics.base import ORDERS, Metric
from deepstruct.plugin import Host

PAGE = Path(__file__).with_name("metrics.md")

HEAD = """\
# Metrics

Every metric that is built in, with its definition. This page is made by `python docs/generate_metrics.py`.

`deepstruct.analyze(model, metrics=...)` takes names from here. Without it, the standard panel is computed
(marked *panel* below) at every order where a metric makes sense. `analyzer="auto"` takes the first analyzer
in the order operator, igraph, networkx that offers a metric and fits `max_memory`; what does not fit is
listed in `report.skipped` with an estimate. Where several analyzers offer a metric, they agree.

- **graph** scope: one number, `report["zeroth"]["edges"]`.
- **layer** scope: a number for each layer, `report.layers("zeroth")`.
- **node** scope: a vector for each space of units, `report.nodes("zeroth", name)`.

"in-degree" and "path" are meant as in [orders and conventions](orders-and-conventions.md).
"""

SCOPES = {"graph": "Of the graph", "layer": "Of each layer", "node": "Of each node"}


def page(metrics: Iterable[Metric]) -> str:
    """The text of the page."""
    parts = [HEAD]
    all_metrics = list(metrics)
    for scope, title in SCOPES.items():
        names = dict.fromkeys(m.name for m in all_metrics if m.scope == scope)
        if not names:
            continue
        parts.append(f"\n## {title}\n\n| metric | definition | orders | analyzers | |\n")
        parts.append("|---|---|---|---|---|\n")
        for name in sorted(names):
            parts.append(_row([m for m in all_metrics if m.name == name and m.scope == scope]))
    return "".join(parts)


def _row(offers: list[Metric]) -> str:
    first = next((m for m in offers if m.definition), offers[0])
    definition = " ".join(first.definition.split())
    source = f" ({first.source})" if first.source else ""
    orders = [order for order in ORDERS if any(order in m.orders for m in offers)]
    where = "all" if tuple(orders) == ORDERS else ", ".join(orders)
    analyzers = ", ".join(dict.fromkeys(m.analyzer for m in offers))
    panel = "panel" if any(m.default for m in offers) else ""
    return f"| `{first.name}` | {_cell(definition + source)} | {where} | {analyzers} | {panel} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def current() -> str:
    """The page for what is built in now."""
    return page(Host(entry_points=False).registry().metrics)


if __name__ == "__main__":
    PAGE.write_text(current())
    print(f"wrote {PAGE}")
