"""Seconds and peak memory of extraction, of the passes and of every operator metric, on networks at 224 x 224.

    python benchmarks/bench_panel.py                            the standard zeroth-order panel
    python benchmarks/bench_panel.py --metrics all --max-seconds 20    everything, none longer than that
    python benchmarks/bench_panel.py --models resnet18 --sparsity 0.9  a short one
    python benchmarks/bench_panel.py --whole --sparsity 0.9     `analyze` as users call it: seconds on the clock, peak
    python benchmarks/bench_panel.py --draw                     the tables and the picture of the last run again

Each network and sparsity runs in a process of its own, so that its memory is its own. Weights are random; a
sparsity sets that share of every weight tensor to zero. Times are processor seconds on one thread, except with
--whole. The metrics of a network share passes: whichever needs one first pays for it, the others read its result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import floors, measuring, pictures, probe
from benchmarks.nets import fill

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "panel.json"
NETWORKS = {
    "alexnet": "AlexNet", "resnet18": "ResNet-18", "resnet50": "ResNet-50", "resnet152": "ResNet-152",
    "vit_b_16": "ViT-B/16", "mobilenet_v2": "MobileNetV2",
}  # fmt: skip
SHOWN = 0.05  # seconds: metrics that take less on every network share one row of the table
Row = dict[str, Any]


def job(arguments: list[str]) -> None:
    """One network, in this process. Arguments: its name, the sparsity, "panel" or "all", and seconds a metric."""
    import torch
    import torchvision.models

    import deepstruct

    name, sparsity, wanted, limit = arguments
    deepstruct.analyze(*_small(), orders=("zeroth",), analyzer="operator")  # plugins and kernels are loaded
    model = getattr(torchvision.models, name)().eval().requires_grad_(False)
    fill(model, float(sparsity))
    x = torch.randn(1, 3, 224, 224)

    def work() -> Row:
        began = time.process_time()
        graph = deepstruct.extract(model, x)
        extraction = time.process_time() - began
        marks: list[tuple[str, float]] = []
        began = time.process_time()
        report = deepstruct.analyze(
            graph, metrics="all" if wanted == "all" else None, analyzer="operator", max_memory=1 << 60,
            max_seconds=float(limit) if float(limit) else None,
            progress=lambda what, done, total: marks.append((what, time.process_time())),
        )  # fmt: skip
        marks.append(("", time.process_time()))
        spent = {what: after - before for (what, before), (_, after) in itertools.pairwise(marks)}
        done = {row.name for row in report.rows}
        return {
            "extraction": extraction,
            "panel": time.process_time() - began,
            "metrics": {what: amount for what, amount in spent.items() if what in done},
            "skipped": {s.name: s.reason for s in report.skipped},
            "digits": len(str(report["zeroth"]["path_count"])) if "path_count" in done else None,
            "graph": graph,
        }

    row, memory = probe.measured(work, most=1)
    graph = row.pop("graph")
    probe.tell({
        **row,
        **memory,
        "network": name,
        "sparsity": float(sparsity),
        "nodes": graph.num_nodes,
        "weight edges": graph.num_weight_edges,
        "structural edges": graph.num_structural_edges,
        "passes": passes_of(graph),
        "need": floors.one_pass(graph)._asdict(),
        "rates": floors.rates()._asdict(),
    })  # fmt: skip


def whole(name: str, sparsity: float) -> Row:
    """`analyze(model, x, orders=("zeroth",))`, tracing included, on all threads, in this process."""
    import torch
    import torchvision.models

    import deepstruct

    deepstruct.analyze(*_small(), orders=("zeroth",))  # plugins and kernels are loaded
    model = getattr(torchvision.models, name)().eval().requires_grad_(False)
    fill(model, sparsity)
    x = torch.randn(1, 3, 224, 224)
    before = probe.process_peak()
    began, cpu = time.perf_counter(), time.process_time()
    report = deepstruct.analyze(model, x, orders=("zeroth",))
    return {
        "network": name, "sparsity": sparsity, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu,
        "threads": torch.get_num_threads(), "before": before, "peak": probe.process_peak(),
        "edges": report["zeroth"]["edges"], "values": len(report.rows),
    }  # fmt: skip


def whole_table(rows: Sequence[Row]) -> str:
    """Markdown: seconds on the clock and memory of one call of `analyze`."""
    lines = [
        "| | edges | seconds: median (each run) | processor seconds | peak memory | of that, before |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs = ", ".join(f"{wall:.2f}" for wall in row["walls"])
        lines.append(
            f"| {label(row)} | {row['edges']:,} | {row['wall']:.2f} s ({runs}) | {row['cpu']:.2f} s | "
            f"{row['peak'] / 2**30:.2f} GiB | {row['before'] / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def measure_whole(options: argparse.Namespace, output: Path) -> None:
    """Every network in a fresh process: threads do not survive a fork."""
    rows: list[Row] = []
    for name in options.models.split(","):
        for sparsity in options.sparsity.split(","):
            command = [sys.executable, __file__, "--one", name, "--sparsity", sparsity]
            runs: list[Row] = []
            for _ in range(options.rounds):
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
            runs.sort(key=lambda run: run["wall"])
            rows.append({**runs[len(runs) // 2], "walls": [run["wall"] for run in runs]})
            print(f"  {label(rows[-1])}: {rows[-1]['wall']:.2f} s", file=sys.stderr, flush=True)
            output.write_text(json.dumps({"machine": measuring.machine(), "rows": rows}, indent=1) + "\n")


def passes_of(graph: StructureGraph) -> dict[str, float]:
    """Seconds of one pass through all operators, by semiring, once what it prepares is there."""
    import torch

    from deepstruct.engine import Counting, passes, sweep

    sources = graph.is_source.to(torch.float64)
    works = {
        "or": lambda: passes.reached(graph),
        "sum": lambda: sweep(graph, sources, Counting()),
        "shortest": lambda: passes.path_lengths(graph, longest=False),
    }
    found = {}
    for name, work in works.items():
        work()
        began = time.process_time()
        work()
        found[name] = time.process_time() - began
    return found


def _small() -> tuple[Any, Any]:
    import torch
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    fill(model, 0.5)
    return model, torch.zeros(1, 3, 8, 8)


def label(row: Row) -> str:
    name = NETWORKS.get(row["network"], row["network"])
    return f"{name}, {row['sparsity']:.0%}" if row["sparsity"] else f"{name}, dense"


def totals(rows: Sequence[Row]) -> str:
    """Markdown: sizes, times and memory of each network."""
    lines = [
        "| | nodes | weight edges | structural edges | digits of the path count | extraction | panel | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["status"] != "ok":
            lines.append(f"| {label(row)} | {row['reason']} | | | | | | |")
            continue
        lines.append(
            f"| {label(row)} | {row['nodes']:,} | {row['weight edges']:,} | {row['structural edges']:,} | "
            f"{row['digits'] or ''} | {row['extraction']:.2f} s | {row['panel']:.2f} s | "
            f"{row['peak'] / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def floor_table(rows: Sequence[Row]) -> str:
    """Markdown: what one pass needs, the least time for that, and the time of each kind of pass over it."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.get("passes", ())))
    lines = [
        "| | operations | bytes | floor | " + " | ".join(f"{kind} (times the floor)" for kind in kinds) + " |",
        "|---|---|---|---|" + "---|" * len(kinds),
    ]
    for row in rows:
        if row["status"] != "ok":
            continue
        need = floors.Need(**row["need"])
        least = need.seconds(floors.Rates(**row["rates"]))
        shown = [f"{row['passes'][kind]:.3f} s ({row['passes'][kind] / least:.1f})" for kind in kinds]
        lines.append(
            f"| {label(row)} | {need.operations / 1e6:,.0f} M | {need.bytes / 1e6:,.0f} MB | {least:.4f} s | "
            + " | ".join(shown) + " |"
        )  # fmt: skip
    return "\n".join(lines)


def metric_table(rows: Sequence[Row]) -> str:
    """Markdown: seconds of each metric on each network."""
    rows = [row for row in rows if row["status"] == "ok"]
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    slow = [name for name in names if max(row["metrics"].get(name, 0.0) for row in rows) >= SHOWN]
    lines = ["| seconds | " + " | ".join(label(row) for row in rows) + " |", "|---|" + "---|" * len(rows)]
    for name in slow:
        cells = [f"{row['metrics'][name]:.2f}" if name in row["metrics"] else "skipped" for row in rows]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    rest = [sum(amount for name, amount in row["metrics"].items() if name not in slow) for row in rows]
    lines.append(f"| the {len(names) - len(slow)} others together | " + " | ".join(f"{a:.2f}" for a in rest) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(NETWORKS))
    parser.add_argument("--sparsity", default="0,0.9,0.99")
    parser.add_argument("--metrics", choices=("panel", "all"), default="panel")
    parser.add_argument("--max-seconds", type=float, default=0.0, help="what one metric may take; 0 for no limit")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit of one network")
    parser.add_argument("--memory", type=float, default=8.0, help="limit of one process in GiB")
    parser.add_argument("--output", type=Path, help="JSON; the picture goes beside it")
    parser.add_argument("--draw", action="store_true", help="print and draw what the output holds, measure nothing")
    parser.add_argument("--whole", action="store_true", help="one call of analyze for each network, on all threads")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each network with --whole; the median counts")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    if options.one:
        _prepare()
        return probe.tell(whole(options.one, float(options.sparsity)))
    if options.whole:
        output = options.output or RESULTS.with_name("whole.json")
        if not options.draw:
            measure_whole(options, output)
        return print(whole_table(json.loads(output.read_text())["rows"]))
    output = options.output or (RESULTS if options.metrics == "panel" else RESULTS.with_name("all-metrics.json"))
    if not options.draw:
        measure(options, output)
    rows = json.loads(output.read_text())["rows"]
    done = [row for row in rows if row["status"] == "ok"]
    print(totals(rows), floor_table(rows), metric_table(rows), sep="\n\n")
    for row in done:
        for name, reason in row["skipped"].items():
            print(f"skipped on {label(row)}: {name}: {reason}")
    if done:
        pictures.metrics([{**row, "network": label(row)} for row in done], output.with_suffix(""))


def measure(options: argparse.Namespace, output: Path) -> None:
    limits = measuring.Limits(options.seconds, int(options.memory * 2**30))
    rows: list[Row] = []
    with measuring.Server([sys.executable, __file__, "--serve"]) as server:
        for name in options.models.split(","):
            for sparsity in options.sparsity.split(","):
                asked = [name, sparsity, options.metrics, str(options.max_seconds)]
                row = {"network": name, "sparsity": float(sparsity), **server.run(asked, limits)}
                rows.append(row)
                told = row["reason"] or f"extraction {row['extraction']:.2f} s, panel {row['panel']:.2f} s"
                print(f"  {label(row)}: {told}", file=sys.stderr, flush=True)
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps({"machine": measuring.machine(), "rows": rows}, indent=1) + "\n")


def _prepare() -> None:
    from tests.zoo_compat import declare_torchvision_ops

    declare_torchvision_ops()
    import torchvision.models  # noqa: F401


def serve() -> None:
    import deepstruct

    _prepare()

    deepstruct.analyze(*_small(), orders=("zeroth",), analyzer="operator")
    probe.serve(job)


if __name__ == "__main__":
    main()
