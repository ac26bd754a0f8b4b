"""The sinks that are built in: places where rows go as they come. Files are appended to, never rewritten."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepstruct.checkpoints.work import ROW, Outcome
from deepstruct.errors import InputError, MissingExtraError, PluginError
from deepstruct.plugin.events import BatchInfo
from deepstruct.plugin.markers import hookimpl

COLUMNS = ("path", "step", *ROW, "content_hash", "config_hash")
"""Columns of rows that go to sinks."""


def sink_rows(outcome: Outcome, config: str) -> list[dict[str, Any]]:
    """The rows of one checkpoint, each with what tells the checkpoint."""
    about = {"path": outcome.path, "step": outcome.step, "content_hash": outcome.content_hash, "config_hash": config}
    return [{name: {**about, **row}.get(name) for name in COLUMNS} for row in outcome.rows]


def open_sink(target: str, batch: BatchInfo) -> Any:
    """A writer to a target, of the sink that is surest of it. Raises InputError when none takes it."""
    from deepstruct.plugin import get_host

    registry = get_host().registry()
    best, best_score = None, 0
    for sink in registry.sinks:
        score = int(sink.accepts(target))
        if score > best_score:
            best, best_score = sink, score
    if best is None:
        known = ", ".join(sink.name for sink in registry.sinks)
        raise InputError(
            f"no sink takes {target!r} (known: {known}): name a .csv or .jsonl file, or tensorboard:FOLDER"
        )
    try:
        return _Named(best.open(target, batch), f"{best.name!r} ({registry.provider_of(best) or 'given'})")
    except (InputError, MissingExtraError):
        raise
    except Exception as error:
        raise PluginError(f"the sink {best.name!r} cannot open {target}: {type(error).__name__}: {error}") from error


class _Named:
    """A writer whose errors say whose it is."""

    def __init__(self, writer: Any, name: str) -> None:
        self._writer, self._name = writer, name

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._writer.write(rows)
        except Exception as error:
            raise PluginError(f"the sink {self._name} failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        try:
            self._writer.close()
        except Exception as error:
            raise PluginError(f"the sink {self._name} failed to close: {type(error).__name__}: {error}") from error


class _Lines:
    """Appends text to a file, one write for each checkpoint, and keeps it if the process is killed."""

    def __init__(self, target: str, header: str) -> None:
        path = Path(target)
        if not path.resolve().parent.is_dir():
            raise InputError(f"cannot write {target}: there is no folder {path.resolve().parent}")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if header and os.fstat(self._file).st_size == 0:
            os.write(self._file, header.encode())

    def put(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._file, data) :]

    def close(self) -> None:
        os.close(self._file)


class CsvSink:
    """Files `*.csv`: a header where the file is new, then a line for each value."""

    name = "csv"

    def accepts(self, target: str) -> int:
        return 50 if target.lower().endswith(".csv") else 0

    def open(self, target: str, batch: BatchInfo) -> Any:
        return _Csv(target)


class _Csv:
    def __init__(self, target: str) -> None:
        self._lines = _Lines(target, ",".join(COLUMNS) + "\r\n")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore")
        writer.writerows({name: _plain(row.get(name)) for name in COLUMNS} for row in rows)
        self._lines.put(text.getvalue())

    def close(self) -> None:
        self._lines.close()


class JsonLinesSink:
    """Files `*.jsonl`: an object for each value."""

    name = "jsonl"

    def accepts(self, target: str) -> int:
        return 50 if target.lower().endswith((".jsonl", ".ndjson")) else 0

    def open(self, target: str, batch: BatchInfo) -> Any:
        return _Json(target)


class _Json:
    def __init__(self, target: str) -> None:
        self._lines = _Lines(target, "")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from deepstruct.report.serial import plain

        self._lines.put("".join(json.dumps(plain({k: _plain(v) for k, v in row.items()})) + "\n" for row in rows))

    def close(self) -> None:
        self._lines.close()


class TensorBoardSink:
    """`tensorboard:FOLDER`: scalars "order/metric" and "order/metric/layer" over the step."""

    name = "tensorboard"

    def accepts(self, target: str) -> int:
        return 60 if target.startswith("tensorboard:") else 0

    def open(self, target: str, batch: BatchInfo) -> Any:
        return _Board(target.partition(":")[2])


class _Board:
    def __init__(self, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("this sink needs tensorboard: pip install 'deepstruct[tensorboard]'") from error
        self._writer = SummaryWriter(folder or "runs")
        self._count = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            value = row.get("value")
            if isinstance(value, (int, float)) and abs(value) < 1e300:
                parts = [str(row["order"]), str(row["name"]), *([row["layer"]] if row.get("layer") else [])]
                step = self._count if row.get("step") is None else row["step"]
                self._writer.add_scalar("/".join(parts), float(value), step)
        self._count += 1

    def close(self) -> None:
        self._writer.close()


def _plain(value: Any) -> Any:
    """Integers that other programs would stumble over, as their digits."""
    from deepstruct.report.numbers import digits

    return digits(value) if isinstance(value, int) and abs(value) >= 2**63 else value


@hookimpl
def deepstruct_sinks() -> list[Any]:
    """The sinks that are built in."""
    return [CsvSink(), JsonLinesSink(), TensorBoardSink()]
