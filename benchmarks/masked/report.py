"""The table and the picture of bench_linear: forward and backward, as ratios within one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.masked.narrow import SUFFIX

OURS = ("SparseLinear", "MaskedLinearLayer")
PEERS = ("sparseprop", "sparselab")
OTHERS = ("dense", "dense" + SUFFIX, "masked eager", "masked eager" + SUFFIX, "torch CSR")
Row = dict[str, Any]  # "case" (out, in, batch, sparsity, threads) and "milliseconds" by layer: forward, both


def ratios(row: Row, ours: str) -> dict[str, float]:
    """How many times as long as `ours` forward and backward of the others take; what did not run is left out."""
    both = {name: times[1] for name, times in row["milliseconds"].items()}
    found = {f"over {name}": both[name] / both[ours] for name in OTHERS if name in both}
    peers = [both[name] for name in PEERS if name in both]
    return found | ({"over the better peer": min(peers) / both[ours]} if peers else {})


def over_eager(rows: list[Row]) -> list[float]:
    return [ratios(row, "MaskedLinearLayer")["over masked eager"] for row in rows]


def line(row: Row) -> str:
    """What one case has shown, for people who watch."""
    out, inputs, batch, sparsity, threads = row["case"]
    shown = "  ".join(f"{name} {t[0]:.2f}/{t[1]:.2f}" for name, t in row["milliseconds"].items())
    lines = [f"{inputs}->{out}, batch {batch}, sparsity {sparsity}, threads {threads} (ms forward/both)", f"  {shown}"]
    for ours in OURS:
        said = ", ".join(f"{ratio:.2f} {name}" for name, ratio in ratios(row, ours).items())
        lines.append(f"  {ours}: {said}")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """Markdown, one line per case."""
    columns = tuple(f"over {name}" for name in (*OTHERS, "the better peer"))
    head = ["in -> out", "batch", "sparsity", "threads", "`SparseLinear` ms", *columns]
    head += ["`MaskedLinearLayer` ms", *columns[:4]]
    lines = ["Forward and backward, float32, medians of the rounds of one interleaved run.", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda r: (r["case"][4], r["case"][1] * r["case"][0], *r["case"][2:4])):
        out, inputs, batch, sparsity, threads = row["case"]
        cells = [f"{inputs} -> {out}", str(batch), f"{sparsity:g}", str(threads)]
        for ours, wanted in zip(OURS, (columns, columns[:4]), strict=True):
            mine = ratios(row, ours)
            cells.append(f"{row['milliseconds'][ours][1]:.2f}")
            cells += [f"{mine[name]:.2f}" if name in mine else "" for name in wanted]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(rows: list[Row], path: Path) -> None:
    """Speed over dense against sparsity: a column for each shape, a line for each batch, one thread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["case"][4] == 1]
    shapes = sorted({tuple(row["case"][:2]) for row in rows}, key=lambda shape: (shape[0] * shape[1], shape))
    if not shapes:
        return
    figure, axes = pyplot.subplots(
        2, len(shapes), figsize=(1 + 3.2 * len(shapes), 6), sharex=True, sharey=True, squeeze=False
    )
    batches = sorted({row["case"][2] for row in rows})
    for column, shape in enumerate(shapes):
        for axis, name in zip(axes[:, column], OURS, strict=True):
            for number, batch in enumerate(batches):
                here = [row for row in rows if tuple(row["case"][:3]) == (*shape, batch)]
                points = sorted((row["case"][3], ratios(row, name)["over dense"]) for row in here)
                if points:
                    x, y = zip(*points, strict=True)
                    axis.plot(x, y, "o-", color=f"C{number}", markersize=4, label=f"batch {batch}")
            axis.axhline(1, color="grey", linewidth=0.8)
            axis.set_yscale("log")
            axis.set_title(f"{name}, {shape[1]} -> {shape[0]}", fontsize=9)
        axes[1][column].set_xlabel("sparsity")
    for axis in axes[:, 0]:
        axis.set_ylabel("times as fast as dense")
    handles = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncol=len(handles), fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
