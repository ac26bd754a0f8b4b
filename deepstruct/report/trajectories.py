"""Pictures of a store: how metrics move over the steps of training, or over each other."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STANDARD = ("sparsity", "effective_sparsity", "effective_nodes", "dead_in", "path_count_log10", "strength_mean",
            "in_degree_mean", "assortativity")  # fmt: skip
"""What is drawn when no metric is named, as far as it was measured."""

_MANY = 10  # runs that a legend names


def trajectories(
    rows: Sequence[Mapping[str, Any]],
    metrics: Iterable[str] | None = None,
    by: str = "step",
    path: str | Path | None = None,
) -> Figure:
    """One small picture for each metric, with a line for each run (folder) and order.

    Args:
        rows: of the wide table (`BatchResults.rows(wide=True)`, `checkpoints.tables.wide_rows`).
        metrics: names; the usual ones among those that were measured without it.
        by: column of the horizontal axis: "step", or a metric such as "sparsity".
        path: saved there, in the format of its suffix.

    Raises InputError when there is nothing to draw, MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("pictures need matplotlib: pip install 'deepstruct[plot]'") from error

    good = [row for row in rows if row.get("state") == "ok" and _number(row.get(by)) is not None]
    if not good:
        raise InputError(f"no checkpoint among {len(rows)} rows has a {by!r} to draw over")
    names = _names(good, metrics, by)
    width = min(len(names), 3)
    height = math.ceil(len(names) / width)
    figure = Figure(figsize=(4.6 * width, 3.4 * height), layout="constrained")
    axes = figure.subplots(height, width, squeeze=False).reshape(-1)
    lines = _lines(good)
    for axis, name in zip(axes, names, strict=False):
        for label, members in lines.items():
            points = sorted((x, y) for row in members if (y := _number(row.get(name))) is not None
                            and (x := _number(row[by])) is not None)  # fmt: skip
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=label)
        axis.set_title(name.replace("_", " "))
        axis.set_xlabel(by.replace("_", " "))
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if 1 < len(lines) <= _MANY:
        axes[0].legend(fontsize=7)
    if path is not None:
        _save(figure, Path(path))
    return figure


def _save(figure: Figure, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"{path}: a picture is of the kind that its suffix says: {', '.join(sorted(known))}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.resolve().parent}")
    figure.savefig(path, dpi=150)


def _names(rows: Sequence[Mapping[str, Any]], metrics: Iterable[str] | None, by: str) -> list[str]:
    known = [name for name in rows[0] if any(_number(row.get(name)) is not None for row in rows)]
    if metrics is not None:
        names = list(metrics)
        missing = [name for name in names if name not in known]
        if missing:
            raise InputError(f"nothing to draw of {', '.join(missing)}; measured: {', '.join(known)}")
        return names
    return [name for name in STANDARD if name in known and name != by] or [n for n in known if n != by][:6]


def _lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by run and order: checkpoints of one folder are one run."""
    orders = {row.get("order") for row in rows}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        run = os.path.basename(os.path.dirname(row["path"])) or row["path"]
        found.setdefault(f"{run}, {row['order']}" if len(orders) > 1 else run, []).append(row)
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
