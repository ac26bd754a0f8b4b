"""The table of results: an SQLite file that a killed run leaves whole, and that several runs may write to.

Every checkpoint is written in one transaction: all of its rows, or none. The journal is a write-ahead log, so that
readers never wait; writers wait for each other for up to a minute.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deepstruct.checkpoints.work import Outcome
from deepstruct.errors import CheckpointError

FORMAT = 1
WAIT = 60.0  # seconds that a writer waits for another

_SCHEMA = """
CREATE TABLE IF NOT EXISTS configs (
    hash TEXT PRIMARY KEY, config TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS checkpoints (
    id INTEGER PRIMARY KEY,
    path TEXT NOT NULL, content_hash TEXT NOT NULL, config_hash TEXT NOT NULL,
    state TEXT NOT NULL, error TEXT NOT NULL, kind TEXT NOT NULL, reader TEXT NOT NULL,
    step INTEGER, parameters INTEGER, architecture TEXT NOT NULL, notes TEXT NOT NULL,
    deepstruct TEXT NOT NULL, plugins TEXT NOT NULL,
    seconds REAL NOT NULL, peak_memory INTEGER, size INTEGER NOT NULL, stamp TEXT NOT NULL, finished TEXT NOT NULL,
    UNIQUE (path, config_hash)
);
CREATE TABLE IF NOT EXISTS measured (
    checkpoint INTEGER NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,
    "order" TEXT NOT NULL, scope TEXT NOT NULL, layer TEXT, metric TEXT NOT NULL,
    value, type TEXT NOT NULL, number REAL,
    analyzer TEXT NOT NULL, exact INTEGER NOT NULL, residual REAL, converged INTEGER,
    note TEXT NOT NULL, provider TEXT NOT NULL, seconds REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS measured_of ON measured (checkpoint, metric);
CREATE TABLE IF NOT EXISTS skipped (
    checkpoint INTEGER NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,
    "order" TEXT NOT NULL, metric TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS skipped_of ON skipped (checkpoint);
CREATE VIEW IF NOT EXISTS results AS
    SELECT c.path, c.step, c.state, c.error, m."order", m.scope, m.layer, m.metric, m.value, m.number, m.type,
           m.analyzer, m.exact, m.residual, m.converged, m.note, m.provider, m.seconds,
           c.content_hash, c.config_hash, c.deepstruct, c.plugins, c.kind, c.reader, c.parameters, c.architecture,
           c.notes, c.seconds AS checkpoint_seconds, c.peak_memory, c.finished,
           c.id AS checkpoint, m.rowid AS place
    FROM checkpoints c LEFT JOIN measured m ON m.checkpoint = c.id;
"""


class Store:
    """An SQLite file of results, made when it is missing. For one thread.

    `readonly` opens a file that is there and writes nothing to it. `Store(None)` is kept in memory.
    Raises CheckpointError for a file that is no such store, or that cannot be written.
    """

    def __init__(self, path: str | Path | None, *, readonly: bool = False) -> None:
        self.path = None if path is None else Path(path)
        try:
            self._db = self._opened(readonly)
            self._check(readonly)
        except sqlite3.Error as error:
            raise CheckpointError(f"{path} is no store of results that can be opened: {error}") from error

    def _opened(self, readonly: bool) -> sqlite3.Connection:
        if self.path is None:
            return sqlite3.connect(":memory:", isolation_level=None)
        if not readonly and not self.path.resolve().parent.is_dir():
            raise CheckpointError(f"cannot write {self.path}: there is no folder {self.path.resolve().parent}")
        if readonly and not self.path.is_file():
            raise CheckpointError(f"there is no store {self.path}")
        uri = f"{self.path.resolve().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        return sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)

    def _check(self, readonly: bool) -> None:
        if readonly:
            tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
            if not {"checkpoints", "measured", "results"} <= tables:
                raise CheckpointError(f"{self.path} is a database, but no store of results of deepstruct")
        else:
            self._journal()
            self._db.execute("PRAGMA foreign_keys = ON")
            with self.transaction():
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._db.execute(statement)
                if self._version() == 0:
                    self._db.execute(f"PRAGMA user_version = {FORMAT}")
        if self._version() != FORMAT:
            raise CheckpointError(f"{self.path} has format {self._version()}; this version of deepstruct has {FORMAT}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _journal(self) -> None:
        """The write-ahead log; switching to it fails at once while another process does, whatever the timeout."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written in the block, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def query(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._db.execute(sql, values)

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection itself."""
        return self._db

    def add_config(self, digest: str, config: Mapping[str, Any]) -> None:
        """Keep a configuration, so that its hash in a row can be looked up."""
        self._db.execute("INSERT OR IGNORE INTO configs VALUES (?, ?)", (digest, json.dumps(config, sort_keys=True)))

    def done(self, config: str) -> dict[str, tuple[str, int, str, str]]:
        """path -> (state, size, stamp, content hash) of what is there for a configuration."""
        rows = self._db.execute(
            "SELECT path, state, size, stamp, content_hash FROM checkpoints WHERE config_hash = ?", (config,)
        )
        return {path: (state, size, stamp, digest) for path, state, size, stamp, digest in rows}

    def touch(self, outcome: Outcome, config: str) -> None:
        """Note that a file was written again with the same content."""
        self._db.execute(
            "UPDATE checkpoints SET size = ?, stamp = ? WHERE path = ? AND config_hash = ?",
            (outcome.size, outcome.stamp, outcome.path, config),
        )

    def write(self, outcome: Outcome, config: str, version: str, plugins: str) -> None:
        """All rows of one checkpoint, in place of earlier ones for the same path and configuration."""
        o = outcome
        with self.transaction():
            self._db.execute("DELETE FROM checkpoints WHERE path = ? AND config_hash = ?", (o.path, config))
            about = (
                o.path, o.content_hash, config, o.state, o.error, o.kind, o.reader, o.step, o.parameters,
                o.architecture, "; ".join(o.notes), version, plugins, o.seconds, o.peak_memory, o.size, o.stamp,
                datetime.now(timezone.utc).isoformat(timespec="seconds"),
            )  # fmt: skip
            marks = ", ".join("?" * (len(about) + 1))
            key = self._db.execute(f"INSERT INTO checkpoints VALUES ({marks})", (None, *about)).lastrowid
            self._db.executemany(
                f"INSERT INTO measured VALUES ({', '.join('?' * 15)})", (_measured(key, row) for row in o.rows)
            )
            self._db.executemany("INSERT INTO skipped VALUES (?, ?, ?, ?)", ((key, *line) for line in o.skipped))

    def append(self, path: str, step: int, rows: Iterable[Mapping[str, Any]], config: str, version: str) -> None:
        """Rows of a model in training, as of a checkpoint of the name `path`."""
        self.write(Outcome(path, step=step, rows=tuple(rows), kind="model", reader="training"), config, version, "")

    def close(self) -> None:
        """Fold the log into the file, and close it."""
        with contextlib.suppress(sqlite3.Error):  # another process reads: the log stays, and nothing is lost
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()


def _measured(key: int | None, row: Mapping[str, Any]) -> tuple[Any, ...]:
    value, kind, number = encoded(row["value"])
    converged = row.get("converged")
    return (
        key, row["order"], row["scope"], row.get("layer"), row["name"], value, kind, number,
        row.get("analyzer", ""), int(row.get("exact", True)), row.get("residual"),
        None if converged is None else int(converged), row.get("note", ""), row.get("provider", ""),
        float(row.get("seconds") or 0.0),
    )  # fmt: skip


def encoded(value: Any) -> tuple[Any, str, float | None]:
    """(what SQLite keeps, type, the value as a float to compare by). Integers of any length stay exact."""
    from deepstruct.report.numbers import digits

    if value is None:
        return None, "none", None
    if isinstance(value, bool):
        return int(value), "bool", float(value)
    if isinstance(value, int):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf") if value > 0 else float("-inf")
        return (value if -(2**63) <= value < 2**63 else digits(value)), "int", number
    if isinstance(value, float):
        return value, "real", value
    return str(value), "text", None


def decoded(value: Any, kind: str) -> Any:
    """The value again."""
    from deepstruct.report.numbers import parse_digits

    if kind == "bool":
        return bool(value)
    if kind == "int" and isinstance(value, str):
        return parse_digits(value)
    return value
