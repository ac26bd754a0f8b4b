"""The picture of a demonstration: accuracy above, structure below, over the weights that are left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepstruct.demo.measure import Row

TITLES = {"mlp": "MLP 64-128-64-10", "cnn": "CNN with a residual block"}
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
BLUE, ORANGE, GREEN = "#2563a8", "#c2611f", "#2f855a"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG with a column for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in rows))
    # A figure of its own canvas: pyplot would bring windows and global state.
    figure = Figure(figsize=(5.6 * len(models) + 0.6, 8.8), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(3, len(models), sharex="col", sharey="row", squeeze=False)
    for column, model in enumerate(models):
        mine = sorted((row for row in rows if row.model == model), key=lambda row: row.step)
        left = [100 * (1 - row.sparsity) for row in mine]
        _accuracy(grid[0][column], left, mine)
        _shares(grid[1][column], left, mine)
        _paths(grid[2][column], left, mine)
        grid[0][column].set_title(TITLES.get(model, model), fontsize=13, color=INK, loc="left", pad=26)
        grid[2][column].set_xlabel("weights left, % (log scale)", color=MUTED)
        for axes in grid[:, column]:
            _style(axes, left, first=column == 0)
    highest = max((row.value("zeroth", "path_count_log10") for row in rows), default=1.0)
    grid[2][0].set_ylim(0, 1.06 * highest if highest > 0 else 1.0)
    figure.suptitle(
        "Accuracy and structure as a network is pruned", fontsize=15, color=INK, x=0.02, ha="left"
    )
    figure.savefig(path)


def _accuracy(axes: Any, left: list[float], rows: list[Row]) -> None:
    axes.plot(left, [100 * row.accuracy for row in rows], "o-", color=INK, label="test accuracy")
    axes.set_ylim(0, 104)
    axes.set_ylabel("accuracy, %", color=MUTED)


def _shares(axes: Any, left: list[float], rows: list[Row]) -> None:
    def share(name: str, of: str) -> list[float]:
        whole = max(rows[0].value("zeroth", of), 1.0)
        return [100 * row.value("zeroth", name) / whole for row in rows]

    axes.plot(left, share("effective_nodes", "nodes"), "s-", color=BLUE, label="units on a path")
    axes.plot(left, share("effective_edges", "edges"), "^-", color=ORANGE, label="edges on a path")
    axes.set_ylim(-3, 104)
    axes.set_ylabel("% of the dense network's", color=MUTED)


def _paths(axes: Any, left: list[float], rows: list[Row]) -> None:
    paths: list[float] = [row.value("zeroth", "path_count_log10") for row in rows]
    axes.plot(left, paths, "D-", color=GREEN, label="paths from input to output")
    axes.set_ylabel("log10 of their number", color=MUTED)


def _style(axes: Any, left: list[float], first: bool) -> None:
    axes.set_xscale("log")
    axes.set_xlim(115, min(left) / 1.15)  # from dense to sparse, as time goes
    ticks = [tick for tick in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if tick >= min(left) / 1.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    # Above the axes, where no line can run through it.
    axes.legend(
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.99),
        ncols=2,
        borderpad=0.2,
        labelcolor=MUTED,
    )
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    if not first:
        axes.set_ylabel("")
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(GRID)
    for line in axes.get_lines():
        line.set_markersize(5)
        line.set_linewidth(1.8)
