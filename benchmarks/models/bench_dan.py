"""Networks over graphs beside the original (PyPI 0.10.0, in an environment of its own), on one thread.

    python benchmarks/models/bench_dan.py            the whole table (the largest graph takes the original a minute)
    python benchmarks/models/bench_dan.py --quick    without the largest two
    python benchmarks/models/bench_dan.py --alone    without the original

Times are processor times in milliseconds: building the model from a networkx graph, and the best forward and
forward + backward of a batch of 64. "agree" is the largest difference of the outputs of both, ours with the
original's state dict; "any order" is building ours with the vertices in random order.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from graphs import BATCH, CASES, INPUTS, OUTPUTS, best, make

from deepstruct.sparse import MaskedDeepDAN, extension

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from peers import original_python  # noqa: E402


def original(case: tuple[str, int, int], folder: Path) -> dict[str, float]:
    """Times of the original; its state dict and outputs are in the folder afterwards."""
    command = [str(original_python()), str(HERE / "peer_dan.py"), str(folder), *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise RuntimeError(f"the original failed on {case}: {done.stderr.strip()[-500:]}")
    return json.loads((folder / "result.json").read_text())


def build(graph: Any, **options: Any) -> tuple[MaskedDeepDAN, float]:
    times = []
    for _ in range(3):
        start = time.process_time()
        model = MaskedDeepDAN(INPUTS, OUTPUTS, graph, **options)
        times.append(time.process_time() - start)
    return model, min(times)


def ours(case: tuple[str, int, int]) -> tuple[MaskedDeepDAN, dict[str, float]]:
    graph = make(*case)
    order = list(graph.nodes)
    random.Random(0).shuffle(order)
    _, any_order = build(graph, order=order)
    model, seconds = build(graph)
    x = torch.randn(BATCH, INPUTS)
    with torch.no_grad():
        forward = best(lambda: model(x))

    def both() -> None:
        model.zero_grad()
        model(x).sum().backward()

    return model, {"build": seconds, "forward": forward, "both": best(both), "any": any_order}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"kernels: {extension.isa()}; milliseconds: original / ours (ratio)")
    print("| graph | layers | build | any order | forward | forward + backward | agree |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES[:-2] if arguments.quick else CASES:
        with tempfile.TemporaryDirectory() as folder:
            model, mine = ours(case)
            theirs = None if arguments.alone else original(case, Path(folder))
            cells = [_cell(theirs, mine, key) for key in ("build", "forward", "both")]
            agree = "-" if theirs is None else f"{_difference(model, Path(folder)):.1e}"
        layers = len(model.hidden.structure.layer_start) - 1
        name = f"{case[0]} {case[1]}, {'k=' if case[0] == 'ws' else ''}{case[2]}"
        row = (name, str(layers), cells[0], f"{mine['any'] * 1e3:.0f}", *cells[1:], agree)
        print(f"| {' | '.join(row)} |", flush=True)


def _cell(theirs: dict[str, float] | None, mine: dict[str, float], key: str) -> str:
    own = mine[key] * 1e3
    return f"{own:.3g}" if theirs is None else f"{theirs[key] * 1e3:.3g} / {own:.3g} ({theirs[key] / mine[key]:.0f}x)"


def _difference(model: MaskedDeepDAN, folder: Path) -> float:
    saved = torch.load(folder / "model.pt", weights_only=True)
    model.load_state_dict(saved["state"])
    with torch.no_grad():
        return float((model(saved["x"]) - saved["out"]).abs().max())


if __name__ == "__main__":
    main()
