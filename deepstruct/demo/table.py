"""The table of a demonstration: in the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepstruct.demo.measure import Row

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("edges", "zeroth", "edges"),
    ("on a path", "zeroth", "effective_edges"),
    ("units on a path", "zeroth", "effective_nodes"),
    ("log10 paths", "zeroth", "path_count_log10"),
    ("channel links", "first", "edges"),
    ("parts", "first", "weakly_connected_components"),
)
"""Title, order and metric of the columns that are shown; the files have all that was measured."""


def print_table(rows: Sequence[Row]) -> None:
    """Accuracy and structure side by side, a line for each checkpoint."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # a log or a pipe has no width of its own
        console = Console(width=120)
    table = Table(
        title="Accuracy and structure of every checkpoint", title_justify="left", header_style="bold"
    )
    table.add_column("checkpoint", no_wrap=True)
    for title in ("sparsity", "accuracy", *(title for title, _, _ in COLUMNS)):
        table.add_column(title, justify="right")
    for index, row in enumerate(rows):
        cells = [f"{100 * row.sparsity:.1f} %", f"{100 * row.accuracy:.1f} %"]
        cells += [number(row.value(order, name)) for _, order, name in COLUMNS]
        last = index + 1 == len(rows) or rows[index + 1].model != row.model
        table.add_row(row.file.removesuffix(".pt"), *cells, end_section=last)
    console.print(table)
    console.print(
        "edges, units, paths: zeroth order; channel links, parts (weakly connected components): first order",
        style="dim",
    )


def number(value: float) -> str:
    """A count with thousands separated, another number with two digits, a dash for none."""
    if math.isnan(value):
        return "-"
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line for each checkpoint; empty cells for what was not computed."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0].flat()))
        writer.writeheader()
        writer.writerows(row.flat() for row in rows)


def write_json(rows: Sequence[Row], path: Path, **about: Any) -> None:
    """The rows with what was skipped and why, under what is to be known about the whole."""
    content = {**about, "checkpoints": [{**row.flat(), "skipped": row.skipped} for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n")
