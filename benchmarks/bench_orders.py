"""CPU seconds and peak memory of the trace and of every order, each network in a process of its own.

    python benchmarks/bench_orders.py [--models alexnet,llama-7b] [--tokens 64] [--json out.json]
    python benchmarks/bench_orders.py --models llama-7b --zeroth    the zeroth order's panel too, within 2 GiB

Image networks read 224 x 224 with random weights; GPT-2 and a Llama of 7 billion weights (on the meta device:
shapes only) read so many tokens. The first line of each is what importing and building the model takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = "alexnet,resnet50,vit_b_16,gpt2,llama-7b"


def build(name: str, tokens: int) -> tuple[Any, Any]:
    """A model in evaluation mode, and an input for it."""
    import torch

    torch.manual_seed(0)
    ids = torch.randint(0, 32000, (1, tokens))
    if name == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config(use_cache=False)).eval(), ids
    if name == "llama-7b":
        from transformers import LlamaConfig, LlamaForCausalLM

        with torch.device("meta"):
            return LlamaForCausalLM(LlamaConfig(use_cache=False)).eval(), ids
    import torchvision.models

    return getattr(torchvision.models, name)().eval(), torch.randn(1, 3, 224, 224)


def measure(name: str, tokens: int, zeroth_too: bool) -> list[dict[str, float | int | str]]:
    """One network, in this process."""
    sys.path.insert(0, str(ROOT))
    from tests.zoo_compat import declare_torchvision_ops

    declare_torchvision_ops()
    rows: list[dict[str, float | int | str]] = []

    def note(what: str, began: float, **facts: int) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append({"step": what, "seconds": time.process_time() - began, "peak MiB": peak, **facts})

    model, example = build(name, tokens)
    note("import and build", 0.0)
    import deepstruct.plugin.current
    from deepstruct.structure.orders.zeroth import ZerothOrder
    from deepstruct.structure.settings import Settings
    from deepstruct.trace import trace

    registry = deepstruct.plugin.current.get_host().registry()
    began = time.process_time()
    recorded = trace(model, example)
    note("trace", began)
    began = time.process_time()
    zeroth = ZerothOrder().build(recorded, Settings(), registry)
    note("zeroth", began, slots=zeroth.num_slots)
    for order in ("first", "second", "third"):
        began = time.process_time()
        graph = zeroth.quotient(order)
        note(order, began, nodes=graph.num_nodes, edges=graph.num_edges)
        del graph
    if zeroth_too:
        rows += panel(zeroth)
    return rows


def panel(graph: Any) -> list[dict[str, float | int | str]]:
    """The standard panel of the zeroth order within the default budget of memory, metric by metric."""
    import itertools

    import deepstruct

    marks: list[tuple[str, float, float]] = []

    def mark(what: str, done: int = 0, total: int = 0) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        marks.append((what, time.process_time(), peak))

    report = deepstruct.analyze(graph, analyzer="operator", progress=mark)
    mark("")
    told = {row.name for row in report.rows}
    rows: list[dict[str, float | int | str]] = []
    for (what, before, _), (_, after, peak) in itertools.pairwise(marks):
        if what in told and after - before >= 0.1:
            rows.append({"step": what, "seconds": after - before, "peak MiB": peak})
    everything: dict[str, float | int | str] = {"step": f"panel: {len(told)} metrics"}
    everything |= {"seconds": marks[-1][1] - marks[0][1], "peak MiB": marks[-1][2]}
    rows.append(everything)
    for skipped in report.skipped:
        rows.append({"step": f"not told: {skipped.name}", "seconds": 0.0, "peak MiB": 0.0})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=DEFAULT)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--zeroth", action="store_true", help="the standard panel of the zeroth order as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.tokens, args.zeroth)))
        return
    found = {}
    for name in args.models.split(","):
        command = [sys.executable, __file__, "--one", name, "--tokens", str(args.tokens)]
        command += ["--zeroth"] * args.zeroth
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"\n{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
            continue
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"\n{name}")
        for row in found[name]:
            facts = "".join(f"  {key} {row[key]:,}" for key in ("slots", "nodes", "edges") if key in row)
            print(f"  {row['step']:32s} {row['seconds']:8.2f} s {row['peak MiB']:10,.0f} MiB{facts}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
