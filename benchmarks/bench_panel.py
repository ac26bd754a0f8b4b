"""Seconds and peak memory of extraction and of every operator metric, on networks at 224 x 224.

    python benchmarks/bench_panel.py [--models resnet18,resnet50] [--sparsity 0,0.9] [--json out.json]

Each network runs in a process of its own, so that peak memory is its own. Weights are random; a sparsity
sets that share of every weight tensor to zero.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = "alexnet,resnet18,resnet50"


def measure(name: str, sparsity: float) -> dict[str, float | int | str]:
    """One network, in this process."""
    sys.path.insert(0, str(ROOT))
    import torch

    from tests.zoo_compat import declare_torchvision_ops

    declare_torchvision_ops()
    import torchvision.models

    import deepstruct
    from deepstruct.analyzers.operator.panel import METRICS
    from deepstruct.analyzers.operator.view import OperatorView
    from deepstruct.errors import MetricError
    from deepstruct.metrics.base import AnalysisContext
    from deepstruct.trace import trace

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(p.sign() + (p == 0)).mul_(torch.rand_like(p) >= sparsity)
    x = torch.randn(1, 3, 224, 224)
    out: dict[str, float | int | str] = {"network": name, "sparsity": sparsity}
    began = time.perf_counter()
    trace(model, x)
    out["trace"] = time.perf_counter() - began
    began = time.perf_counter()
    graph = deepstruct.extract(model, x)
    out["trace and build"] = time.perf_counter() - began
    view = OperatorView(graph, AnalysisContext())
    whole = time.perf_counter()
    for metric in METRICS:
        if metric.scope != "graph" or not metric.default:
            continue
        began = time.perf_counter()
        try:
            metric.compute(view)
        except MetricError:
            continue
        seconds = time.perf_counter() - began
        if seconds >= 0.1:
            out[metric.name] = seconds
    out["whole panel"] = time.perf_counter() - whole
    out["nodes"], out["weight edges"] = graph.num_nodes, graph.num_weight_edges
    out["structural edges"] = graph.num_structural_edges
    out["digits of the path count"] = len(str(view.path_count))
    out["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=DEFAULT)
    parser.add_argument("--sparsity", default="0,0.9")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, sparsity = args.one.split("@")
        print(json.dumps(measure(name, float(sparsity))))
        return
    rows = []
    for name in args.models.split(","):
        for sparsity in args.sparsity.split(","):
            command = [sys.executable, __file__, "--one", f"{name}@{sparsity}"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(f"\n{name}, sparsity {sparsity}")
            for key, value in row.items():
                if key not in ("network", "sparsity"):
                    print(f"  {key:28s} {value:>18,.2f}" if isinstance(value, float) else f"  {key:28s} {value:>18,}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
