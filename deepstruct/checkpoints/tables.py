"""Tables out of a store: long (a row for each value) or wide (a row for each checkpoint and order), and their files."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from deepstruct.checkpoints.store import Store, decoded
from deepstruct.errors import InputError, MissingExtraError

LONG = (
    "path", "step", "state", "error", "order", "scope", "layer", "metric", "value", "analyzer", "exact", "residual",
    "converged", "note", "provider", "seconds", "content_hash", "config_hash", "deepstruct", "plugins", "kind",
    "reader", "parameters", "architecture", "notes", "checkpoint_seconds", "peak_memory", "finished",
)  # fmt: skip
"""Columns of the long table. A checkpoint that failed has one row, without a metric."""

ABOUT = ("path", "step", "order", "state", "error", "kind", "reader", "parameters", "seconds", "peak_memory",
         "content_hash", "config_hash", "finished")  # fmt: skip
"""Columns of the wide table before those of the metrics of graph scope."""

FORMATS = ("csv", "jsonl", "parquet")

_READING = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, getattr(sqlite3, "SQLITE_RECURSIVE", 33),
}  # fmt: skip

Row = dict[str, Any]


def long_rows(store: Store, where: str | None = None, config: str | None = None) -> list[Row]:
    """Every value, in the order of paths (numbers by value), orders and metrics as they were computed.

    Args:
        where: a condition in SQL over the columns of the wide table, such as "sparsity > 0.9 AND step >= 100".
        config: only rows of this configuration.

    Raises InputError for a condition that is none.
    """
    chosen = None if where is None else _chosen(store, where)
    columns = ", ".join(f'"{name}"' for name in LONG)
    sql = f"SELECT checkpoint, type, {columns} FROM results"
    values: tuple[Any, ...] = ()
    if config is not None:
        sql, values = f"{sql} WHERE config_hash = ?", (config,)
    rows = []
    for key, kind, *fields in store.query(f"{sql} ORDER BY checkpoint, place", values):
        row = dict(zip(LONG, fields, strict=True))
        if chosen is not None and (key, row["order"]) not in chosen:
            continue
        if row["metric"] is not None:
            row["value"] = decoded(row["value"], kind)
            row["exact"] = bool(row["exact"])
            row["converged"] = None if row["converged"] is None else bool(row["converged"])
        rows.append(row)
    return _sorted(rows)


def wide_rows(store: Store, where: str | None = None, config: str | None = None) -> list[Row]:
    """One row for each checkpoint and order: what is known of it, then a column for each metric of graph scope."""
    chosen = None if where is None else _chosen(store, where)
    sql = f'SELECT id, {", ".join(name for name in ABOUT if name != "order")} FROM checkpoints'
    heads = {key: dict(zip((n for n in ABOUT if n != "order"), rest, strict=True)) for key, *rest in store.query(sql)}
    found: dict[tuple[int, str | None], Row] = {}
    measured = store.query(
        "SELECT checkpoint, \"order\", metric, value, type FROM measured WHERE scope = 'graph' ORDER BY rowid"
    )
    for key, order, metric, value, kind in measured:
        found.setdefault((key, order), {})[metric] = decoded(value, kind)
    for key in heads.keys() - {key for key, _ in found}:
        found[key, None] = {}
    names = list(dict.fromkeys(name for row in found.values() for name in row if name not in ABOUT))
    rows = []
    for (key, order), metrics in found.items():
        if (chosen is None or (key, order) in chosen) and config in (None, heads[key]["config_hash"]):
            head = {**heads[key], "order": order}
            rows.append({**{name: head[name] for name in ABOUT}, **{name: metrics.get(name) for name in names}})
    return _sorted(rows)


def _sorted(rows: list[Row]) -> list[Row]:
    from deepstruct.checkpoints.discover import natural

    keys = {path: natural(path) for path in {row["path"] for row in rows}}
    return sorted(rows, key=lambda row: (keys[row["path"]], row["config_hash"]))


def _chosen(store: Store, where: str) -> set[tuple[int, str | None]]:
    """(checkpoint, order) for which the condition holds. It may read and nothing else."""
    db = store.connection
    metrics = [name for (name,) in db.execute("SELECT DISTINCT metric FROM measured WHERE scope = 'graph'")]
    asked = [name for name in metrics if name in where]
    columns = ", ".join(
        f"MAX(CASE WHEN m.metric = {_quoted(name)} THEN COALESCE(m.number, m.value) END) AS {_name(name)}"
        for name in asked
    )
    about = ", ".join(f"c.{name} AS {name}" for name in ABOUT if name != "order")
    sql = (
        f'WITH wide AS (SELECT c.id AS checkpoint, m."order" AS "order", {about}{", " + columns if columns else ""} '
        "FROM checkpoints c LEFT JOIN measured m ON m.checkpoint = c.id AND m.scope = 'graph' "
        f'GROUP BY c.id, m."order") SELECT checkpoint, "order" FROM wide WHERE ({where})'
    )
    db.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
    try:
        return {(key, order) for key, order in db.execute(sql)}
    except (sqlite3.Error, sqlite3.Warning) as error:
        known = ", ".join([*ABOUT[:8], *metrics[:12]])
        raise InputError(f"the condition {where!r} cannot be used: {error}; columns: {known}, ...") from error
    finally:
        db.set_authorizer(None)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def file_format(path: str | Path) -> str | None:
    """The format that a file name stands for: "csv", "jsonl" or "parquet"; None for anything else."""
    suffix = Path(path).suffix.lower().lstrip(".")
    return {"json": "jsonl", "ndjson": "jsonl", "pq": "parquet"}.get(suffix, suffix if suffix in FORMATS else None)


def export(rows: Sequence[Mapping[str, Any]], path: str | Path, kind: str | None = None) -> None:
    """Write rows to a file, whole or not at all. Raises InputError for an unknown format, MissingExtraError for Parquet
    without pyarrow."""
    kind = kind or file_format(path)
    if kind not in FORMATS:
        raise InputError(f"{path}: the format is told by the suffix .csv, .jsonl or .parquet")
    target = Path(path)
    if not target.resolve().parent.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {target.resolve().parent}")
    handle, name = tempfile.mkstemp(dir=target.resolve().parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        if kind == "parquet":
            _parquet(rows, name)
        else:
            with open(name, "w", encoding="utf-8", newline="") as file:
                WRITERS[kind](rows, file)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every column of the rows, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Comma-separated values with a header; None is empty, True and False are words."""
    writer = csv.DictWriter(file, columns_of(rows) or list(LONG), restval="")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)


def write_jsonl(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """One JSON object for each row; NaN is null, infinity a string."""
    from deepstruct.report.serial import dumps, plain

    for row in rows:
        try:
            line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
        except ValueError:  # an integer longer than the encoder likes
            line = " ".join(dumps(plain(row)).split("\n"))
        file.write(line + "\n")


WRITERS: dict[str, Callable[[Sequence[Mapping[str, Any]], TextIO], None]] = {"csv": write_csv, "jsonl": write_jsonl}


def _text(value: Any) -> Any:
    from deepstruct.report.numbers import digits

    return digits(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _parquet(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Parquet files need pyarrow: pip install 'deepstruct[parquet]'") from error
    names = columns_of(rows) or list(LONG)
    table = pyarrow.table({name: _array(pyarrow, [row.get(name) for row in rows]) for name in names})
    parquet.write_table(table, path)


def _array(pyarrow: Any, values: list[Any]) -> Any:
    """A column of one type: whole numbers, else real ones, else text (integers beyond 64 bits and mixtures)."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and not all(-(2**63) <= value < 2**63 for value in values if value is not None):
        kinds = {str}
    if kinds == {int, float}:
        fits = all(abs(value) <= 2**53 for value in values if type(value) is int)
        kinds = {float} if fits else {str}
    if not kinds:
        return pyarrow.array(values, pyarrow.string())
    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in types and kind is not str:
        return pyarrow.array([None if v is None else kind(v) for v in values], types[kind])
    return pyarrow.array([None if v is None else str(_text(v)) for v in values], pyarrow.string())
