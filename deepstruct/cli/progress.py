"""What a person sees of a batch: a live bar, failures as they happen, and a summary at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from deepstruct.batches import CheckpointResult
    from deepstruct.plugin.events import BatchSummary

_FEW = 10  # failures that the summary lists


class Watch:
    """Told of every result; prints to stderr according to the mode: "live", "lines", "json" or "quiet".

    "live" draws a bar with rate and time left where stderr is a terminal, and is "lines" elsewhere: a line for each
    failure, and one now and then about how far it is. "json" prints an object for each checkpoint on stdout.
    """

    def __init__(self, mode: str, total: int) -> None:
        self.mode, self.total = mode, total
        self.done = self.bad = 0
        self.failures: list[CheckpointResult] = []
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def showing(self) -> Iterator[Watch]:
        """Show progress in the block."""
        if self.mode != "live" or not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("batch"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(), TextColumn("{task.fields[bad]}"),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._bar:
            self._task = self._bar.add_task("batch", total=self.total, rate="", bad="")
            yield self
        self._bar = None

    def tell(self, result: CheckpointResult) -> None:
        """One more result."""
        self.done += 1
        if result.state != "ok":
            self.bad += 1
            self.failures.append(result)
            if self.mode in ("live", "lines"):
                self._line(f"{result.state}: {_named(result)}")
        if self.mode == "json":
            click.echo(
                json.dumps({"path": result.path, "state": result.state, "error": result.error, "step": result.step,
                            "values": len(result.rows), "earlier": result.earlier})
            )  # fmt: skip
        rate = self.done / max(time.monotonic() - self._began, 1e-9)
        if self._bar is not None:
            bad = f"[red]{self.bad} failed[/]" if self.bad else ""
            self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f}/s", bad=bad)
        elif self.mode in ("live", "lines") and time.monotonic() - self._said > 10:
            self._said = time.monotonic()
            left = (self.total - self.done) / rate
            self._line(f"{self.done} of {self.total}, {rate:.1f}/s, {_span(left)} left")

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(text, err=True)


def _named(result: CheckpointResult) -> str:
    return result.error if result.path in result.error else f"{result.path}: {result.error}"


def print_summary(summary: BatchSummary, earlier: int, out: str, failures: list[Any], mode: str) -> None:
    """The end of a run, in words or (mode "json") as one object."""
    if mode == "json":
        click.echo(
            json.dumps({"ok": summary.ok, "failed": summary.failed, "crashed": summary.crashed, "earlier": earlier,
                        "seconds": round(summary.seconds, 3), "interrupted": summary.interrupted, "out": out})
        )  # fmt: skip
        return
    if mode == "quiet":
        return
    done = summary.ok + summary.failed + summary.crashed
    rate = f", {done / summary.seconds:.1f}/s" if summary.seconds > 0 and done else ""
    parts = [f"{summary.ok} done"]
    parts += [f"{count} {word}" for count, word in ((summary.failed, "failed"), (summary.crashed, "crashed")) if count]
    parts += [f"{earlier} done before"] if earlier else []
    click.echo(f"{', '.join(parts)} in {_span(summary.seconds)}{rate}: {out}", err=True)
    if failures and len(failures) > _FEW:
        click.echo(f"all {len(failures)} failures: deepstruct results {out} --where \"state != 'ok'\"", err=True)
    if summary.interrupted:
        click.echo("interrupted: the same command goes on from here", err=True)


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
