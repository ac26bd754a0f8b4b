"""The pictures of the benchmarks, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_COLORS = {
    "extract": "#6baed6", "operator": "#08519c", "igraph": "#238b45", "networkx": "#d95f0e", "original": "#cb181d",
}  # fmt: skip
_LEAST_MEMORY = 0.05  # MiB: below this a process's memory says nothing


def scaling(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, str], path: Path) -> None:
    """Seconds (top) and memory (bottom) against edges, one column for each family and sparsity, log-log.

    A cross at the end of a line stands where a limit of seconds or memory stopped the contestant.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = list(dict.fromkeys((row["family"], row["sparsity"]) for row in rows))
    figure, axes = pyplot.subplots(
        2, len(columns), figsize=(1 + 3.3 * len(columns), 6.4), sharex=True, sharey="row", squeeze=False
    )
    for number, (family, sparsity) in enumerate(columns):
        here = [row for row in rows if (row["family"], row["sparsity"]) == (family, sparsity)]
        for contestant in labels:
            mine = [row for row in here if row["contestant"] == contestant]
            done = [row for row in mine if row["status"] == "ok"]
            stopped = [row for row in mine if row["status"] != "ok"]
            if not done:
                continue
            edges = [row["edges"] for row in done]
            for axis, values in (
                (axes[0][number], [row["seconds"] for row in done]),
                (axes[1][number], [max(row["growth"] / 2**20, _LEAST_MEMORY) for row in done]),
            ):
                color = _COLORS.get(contestant, "black")
                axis.plot(edges, values, "o-", color=color, markersize=3.5, linewidth=1.4, label=labels[contestant])
                if stopped:
                    axis.plot(edges[-1:], values[-1:], "x", color=color, markersize=10, markeredgewidth=2)
        kind = f"{sparsity:.0%} zeros" if sparsity else "dense"
        axes[0][number].set_title(f"{family.upper()}, {kind}", fontsize=10)
        axes[1][number].set_xlabel("edges")
    for row, name in zip(axes, ("seconds", "memory added, MiB"), strict=True):
        row[0].set_ylabel(name)
        for axis in row:
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
            for side in ("top", "right"):
                axis.spines[side].set_visible(False)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    save(figure, path)


def metrics(rows: Sequence[Mapping[str, Any]], path: Path, most: int = 24) -> None:
    """Seconds of each metric on each network, as a field of colors (log scale); the slowest metrics first."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import colors, pyplot

    networks = [row["network"] for row in rows]
    total: dict[str, float] = {}
    for row in rows:
        for name, amount in row["metrics"].items():
            total[name] = total.get(name, 0.0) + amount
    names = sorted(total, key=lambda name: -total[name])[:most]
    values = np.array([[row["metrics"].get(name, np.nan) for row in rows] for name in names])
    figure, axis = pyplot.subplots(figsize=(3.2 + 0.48 * len(networks), 1.8 + 0.24 * len(names)))
    shown = axis.imshow(np.maximum(values, 1e-3), aspect="auto", cmap="viridis", norm=colors.LogNorm(1e-3, None))
    axis.set_xticks(range(len(networks)), networks, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(shown, ax=axis, label="seconds", fraction=0.03)
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot, rcParams

    rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)
