"""Time and memory against the number of edges, for this package and its peers, side by side in one run.

    python benchmarks/bench_scaling.py                       everything: the figures of benchmarks/README.md
    python benchmarks/bench_scaling.py --most 1e6 --rounds 1 a short one
    python benchmarks/bench_scaling.py --draw                the table and the picture of the last run again

Each measurement runs in a process of its own, peers in turn, within limits of seconds and memory; a contestant
that passes a limit, or would by far, as its times grow, takes no part at larger sizes of that series. Times are
processor seconds on one thread, medians over the rounds. Memory is what the work adds to its process at its peak:
the model, which all need, is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring, peers, pictures
from benchmarks.nets import FAMILIES, Net, num_weights

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scaling.json"
OURS = ("extract", "operator", "igraph", "networkx")
LABELS = {
    "extract": "deepstruct: extraction",
    "operator": "deepstruct: extraction + panel, operators",
    "igraph": "deepstruct: extraction + panel, igraph",
    "networkx": "deepstruct: extraction + panel, networkx",
    "original": "deepstruct 0.10.0 (PyPI): extraction",
}
Row = dict[str, Any]


def series(
    family: str, sparsity: float, sizes: Iterable[int], contestants: Iterable[str], rounds: int,
    measure: Callable[[str, Net], Row], quick: float, limits: measuring.Limits,
) -> Iterator[Row]:  # fmt: skip
    """All points of one family and sparsity. Only what took less than `quick` seconds is measured again."""
    running = list(contestants)
    took: dict[str, list[float]] = {contestant: [] for contestant in running}
    for size in sizes:
        net = Net(family, size, sparsity)
        weights = 4 * num_weights(net)
        if weights > limits.memory // 2:  # the rest is for what is measured
            reason = f"not tried: the weights alone take {weights / 2**30:.1f} GiB"
            yield from ({**net._asdict(), "contestant": c, "status": "memory", "reason": reason} for c in running)
            return
        for contestant in list(running):
            expected = extrapolated(took[contestant])
            if expected > 1.5 * limits.seconds:
                reason = f"not tried: about {expected:.0f} s"
                yield {**net._asdict(), "contestant": contestant, "status": "seconds", "reason": reason}
                running.remove(contestant)
        runs: dict[str, list[Row]] = {contestant: [] for contestant in running}
        for _ in range(rounds):
            for contestant, done in runs.items():
                if not done or (done[-1]["status"] == "ok" and done[-1]["seconds"] < quick):
                    done.append(measure(contestant, net))
        for contestant, done in runs.items():
            row = {**net._asdict(), "contestant": contestant, **combined(done)}
            took[contestant].append(row.get("seconds", 0.0))
            if row["status"] != "ok":
                running.remove(contestant)
            yield row
        if not running:
            return


def extrapolated(times: Sequence[float]) -> float:
    """Seconds at the next size, were they to grow as they last did; 0 where that cannot be told."""
    if len(times) < 2 or times[-1] < 1.0:  # below a second, what does not grow hides what does
        return 0.0
    return times[-1] ** 2 / times[-2]


def combined(runs: list[Row]) -> Row:
    """Several runs of one measurement as one: medians of time and memory; what stopped one stops all."""
    for run in runs:
        if run["status"] != "ok":
            return run
    merged = dict(runs[0], runs=len(runs))
    for key in ("seconds", "wall", "growth", "peak"):
        merged[key] = statistics.median(run[key] for run in runs)
    return merged


def disagreements(rows: list[Row], tolerance: float = 1e-9) -> list[str]:
    """Where analyzers of this package differ in a value on the same network. Empty is what it should be."""
    found = []
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if "values" not in row:
            continue
        other = first.setdefault((row["family"], row["sparsity"], row["size"]), row)
        for name in sorted(row["values"].keys() & other["values"].keys()):
            a, b = row["values"][name], other["values"][name]
            if abs(a - b) > tolerance * max(abs(a), abs(b)):
                where = f"{name} of {row['family']} {row['size']:.0e}"
                found.append(f"{where}: {row['contestant']} {a}, {other['contestant']} {b}")
    return found


def line(row: Row) -> str:
    edges = row["edges"] if row["status"] == "ok" else row["size"]
    where = f"{row['family']} {edges:>14,} edges, {row['sparsity']:.0%} sparse"
    if row["status"] != "ok":
        return f"{where}  {row['contestant']:9s} stops: {row['reason']}"
    return f"{where}  {row['contestant']:9s} {seconds(row['seconds'])} s  {memory(row['growth'])}"


def seconds(amount: float) -> str:
    return f"{amount:.3f}" if amount < 10 else f"{amount:.1f}"


def memory(amount: float) -> str:
    mebi = amount / 2**20
    return f"{mebi / 1024:.1f} GiB" if mebi >= 1024 else f"{mebi:.1f} MiB" if mebi < 10 else f"{mebi:.0f} MiB"


def table(rows: list[Row]) -> str:
    """Markdown: one row for each network, one column for each contestant."""
    contestants = [c for c in LABELS if any(row["contestant"] == c for row in rows)]
    lines = [
        "| network | sparse | edges | " + " | ".join(LABELS[c] for c in contestants) + " |",
        "|---|---|---|" + "---|" * len(contestants),
    ]
    cells: dict[tuple[str, float, int], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["family"], row["sparsity"], row["size"]), {})[row["contestant"]] = row
    for (family, sparsity, size), here in cells.items():
        edges = next((row["edges"] for row in here.values() if row["status"] == "ok"), None)
        shown = [_cell(here.get(c), edges) for c in contestants]
        count = f"{edges:,}" if edges else f"about {size:.0e}"
        lines.append(f"| {family.upper()} | {sparsity:.0%} | {count} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(row: Row | None, edges: int | None) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return row["reason"]
    other = "" if row["edges"] == edges else f" ({row['edges']:,} edges)"
    return f"{seconds(row['seconds'])} s, {memory(row['growth'])}{other}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=1e3, help="number of edges to begin with")
    parser.add_argument("--most", type=float, default=1e10)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--sparsity", default="0,0.9")
    parser.add_argument("--contestants", default=",".join(LABELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", type=float, default=5.0, help="seconds below which a measurement is repeated")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of one measurement")
    parser.add_argument("--memory", type=float, default=8.0, help="limit of one process in GiB, the model included")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON; the picture goes beside it")
    parser.add_argument("--draw", action="store_true", help="draw and print what the output holds, measure nothing")
    options = parser.parse_args()
    if not options.draw:
        limits = measuring.Limits(options.seconds, int(options.memory * 2**30))
        sizes = [10**k for k in range(3, 12) if options.least <= 10**k <= options.most]
        rows: list[Row] = []
        contestants = options.contestants.split(",")
        with measuring.Server([sys.executable, HERE / "contestants.py"]) as ours, ExitStack() as stack:
            theirs = _original(stack) if "original" in contestants else None
            if theirs is None:
                contestants = [c for c in contestants if c != "original"]

            def measure(contestant: str, net: Net) -> Row:
                which = [net.family, str(net.size), str(net.sparsity)]
                if contestant == "original" and theirs is not None:
                    return theirs.run(which, limits)
                return ours.run([contestant, *which], limits)

            for family in options.families.split(","):
                for sparsity in map(float, options.sparsity.split(",")):
                    for row in series(
                        family, sparsity, sizes, contestants, options.rounds, measure, options.quick, limits
                    ):
                        print("  " + line(row), file=sys.stderr, flush=True)
                        rows.append(row)
                        save(options.output, rows, limits)
    saved = json.loads(options.output.read_text())
    pictures.scaling(saved["rows"], LABELS, options.output.with_suffix(""))
    print(table(saved["rows"]))
    for complaint in disagreements(saved["rows"]):
        print(f"DISAGREE: {complaint}")


def _original(stack: ExitStack) -> measuring.Server | None:
    try:
        python = peers.original_python()
    except RuntimeError as error:
        print(f"the original takes no part: {error}", file=sys.stderr)
        return None
    return stack.enter_context(measuring.Server([python, HERE / "peer_original.py"]))


def save(path: Path, rows: list[Row], limits: measuring.Limits) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": measuring.machine(), "limits": limits._asdict(), "rows": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
