"""`deepstruct results`: the table of a store, filtered, printed, exported or drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

SHOWN = ("path", "step", "order", "state", "nodes", "edges", "nonzero_weights", "sparsity", "path_count_log10")


@click.command(short_help="Show or export what a batch measured.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["table", "csv", "jsonl", "parquet"]), default="table",
              show_default=True, help="A table to read, or rows to work with.")  # fmt: skip
@click.option("--where", metavar="CONDITION", help="In SQL: \"sparsity > 0.9 AND step > 100\".")
@click.option("--metrics", metavar="A,B,...", help="Columns of the table; all with --wide.")
@click.option("--wide/--long", default=None, help="A row for each checkpoint and order, or for each value.")
@click.option("--out", type=click.Path(path_type=Path), help="Write here instead of printing; needed for Parquet.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw metrics over steps: .png, .svg, .pdf.")
@click.option("--by", default="step", show_default=True, help="What trajectories run over: step, or a metric.")
def results(store: Path, **options: Any) -> None:
    """Show, filter, export or draw the results in a store (or beside a table) that `deepstruct batch` wrote.

    Rows are long (one for each value) in files and wide (one for each checkpoint and order) on screen.
    """
    from deepstruct.batches import STORES
    from deepstruct.checkpoints.store import Store
    from deepstruct.checkpoints.tables import WRITERS, export, long_rows, wide_rows
    from deepstruct.cli.inputs import names
    from deepstruct.errors import InputError

    beside = store.with_name(store.name + ".db")
    place = beside if store.suffix.lower() not in STORES and beside.is_file() else store
    opened = Store(place, readonly=True)
    kind, out = options["kind"], options["out"]
    metrics = names(options["metrics"])
    if options["picture"] is not None:
        from deepstruct.report.trajectories import trajectories

        trajectories(wide_rows(opened, options["where"]), metrics, options["by"], options["picture"])
        click.echo(f"wrote {options['picture']}", err=True)
        return
    wide = kind == "table" if options["wide"] is None else options["wide"]
    rows = (wide_rows if wide else long_rows)(opened, options["where"])
    if metrics is not None:
        rows = _only(rows, metrics, wide)
    if kind == "table":
        if out is not None:
            raise InputError("--out writes csv, jsonl or parquet: name one by --format")
        _print(rows, metrics, wide)
    elif out is not None:
        export(rows, out, kind)
        click.echo(f"wrote {len(rows)} rows to {out}", err=True)
    elif kind == "parquet":
        raise InputError("Parquet is no text: name a file by --out")
    else:
        WRITERS[kind](rows, sys.stdout)


def _only(rows: list[dict[str, Any]], metrics: tuple[str, ...], wide: bool) -> list[dict[str, Any]]:
    """The columns or the rows of these metrics."""
    from deepstruct.checkpoints.tables import ABOUT
    from deepstruct.errors import InputError

    known = {name for row in rows for name in row} if wide else {row["metric"] for row in rows}
    missing = [name for name in metrics if name not in known]
    if missing and rows:
        raise InputError(f"the store has no {', '.join(missing)} among these rows")
    if not wide:
        return [row for row in rows if row["metric"] in metrics]
    return [{name: row.get(name) for name in (*ABOUT, *(m for m in metrics if m not in ABOUT))} for row in rows]


def _print(rows: list[dict[str, Any]], metrics: tuple[str, ...] | None, wide: bool) -> None:
    import os.path

    from deepstruct.report.table import Table

    paths = [row["path"] for row in rows if "://" not in row["path"]]
    base = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    for row in rows:
        if base and "://" not in row["path"]:
            row["path"] = os.path.relpath(row["path"], base)
    known = {name for row in rows for name, value in row.items() if value is not None}
    if not wide:
        columns = ["path", "order", "layer", "metric", "value"]
    elif metrics is not None:
        columns = ["path", "step", "order", "state", *metrics]
    else:
        columns = [name for name in SHOWN if name in known or name in ("path", "state")]
    failed = [row for row in rows if row["state"] != "ok"]
    notes = [f"{row['state']}: {row['error']}" for row in failed]
    click.echo(repr(Table(columns, rows, f"{len(rows)} rows{f' under {base}' if base else ''}", notes)))
