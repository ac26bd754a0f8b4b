"""The 784-1000-500-500-200-100-10 MLP: this package against the original's transform, side by side in one run.

    python benchmarks/bench_mlp.py [--rounds 3]

The original (deepstruct 0.10.0 of PyPI) extracts a graph and has no metrics. Here: extraction alone, and
extraction with the whole standard zeroth-order panel through operators. Each measurement runs in a process of
its own; times are processor seconds on one thread, medians over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measuring, peers
from benchmarks.bench_scaling import LABELS, combined, memory
from benchmarks.nets import TARGET_MLP

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mlp.json"
TARGETS = {"extract": 1000, "operator": 40}  # how many times faster than the original
EDGES = sum(a * b for a, b in itertools.pairwise(TARGET_MLP))


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """One row for each contestant. Raises RuntimeError when one fails or finds another number of edges."""
    limits = measuring.Limits(600.0)
    runs: dict[str, list[dict[str, Any]]] = {"extract": [], "operator": [], "original": []}
    with (
        measuring.Server([sys.executable, HERE / "contestants.py"]) as ours,
        measuring.Server([peers.original_python(), HERE / "peer_original.py"]) as theirs,
    ):
        for _ in range(rounds):
            for name, done in runs.items():
                row = theirs.run(["target"], limits) if name == "original" else ours.run([name, "target"], limits)
                if row["status"] != "ok" or row["edges"] != EDGES:
                    raise RuntimeError(f"{LABELS[name]}: {row['reason'] or row['edges']} (expected {EDGES} edges)")
                done.append(row)
    return {name: combined(done) for name, done in runs.items()}


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: rows["original"]["seconds"] / rows[name]["seconds"] for name in TARGETS}


def table(rows: dict[str, dict[str, Any]]) -> str:
    faster = ratios(rows)
    lines = ["| | seconds | memory added | times faster | target |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        end = f"{faster[name]:,.0f} | {TARGETS[name]:,}" if name in TARGETS else "1 |"
        lines.append(f"| {LABELS[name]} | {row['seconds']:.4f} | {memory(row['growth'])} | {end} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = measure(options.rounds)
    print(f"{'-'.join(map(str, TARGET_MLP))}, dense: {EDGES:,} edges\n")
    print(table(rows))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": measuring.machine(), "edges": EDGES, "rows": rows, "times faster": ratios(rows)}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
