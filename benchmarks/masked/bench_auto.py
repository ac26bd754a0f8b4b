"""Is `MaskedLinearLayer(backend="auto")` ever slower than masked eager? The two of them on the whole grid.

    python -m benchmarks.masked.bench_auto                 on one thread and on two (some ten minutes)
    python -m benchmarks.masked.bench_auto --threads 1

Forward and backward, the two in turns, and each of them first in every other round; the best of all rounds. Processor
time on one thread, wall time on two. Ratios go to benchmarks/results/masked_auto.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.masked.bench_linear import BATCHES, SHAPES, SPARSITIES
from deepstruct.sparse import MaskedLinearLayer

RESULTS = Path(__file__).resolve().parents[1] / "results" / "masked_auto.json"
SLOWER = 0.95  # less than this is counted as slower: the same operations twice differ by as much


def ratio(inputs: int, outputs: int, batch: int, sparsity: float, seconds: float) -> float:
    """Time of masked eager over that of the layer."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(outputs, inputs, generator=generator) >= sparsity
    layer = MaskedLinearLayer(inputs, outputs, backend="auto")
    layer.mask[:, :] = mask
    weight, bias = (nn.Parameter(p.detach().clone()) for p in (layer.weight, layer.bias))
    x = torch.randn(batch, inputs, generator=generator).requires_grad_()
    grad = torch.randn(batch, outputs, generator=generator)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def step(run: Callable[[], Tensor], *parameters: Tensor) -> float:
        for tensor in (x, *parameters):
            tensor.grad = None
        start = clock()
        run().backward(grad)
        return clock() - start

    best = [float("inf"), float("inf")]
    begin = time.perf_counter()
    number = 0
    while number <= 5 or time.perf_counter() - begin < seconds:
        for which in (0, 1) if number % 2 else (1, 0):
            if which:
                took = step(lambda: layer(x), *layer.parameters())
            else:
                took = step(lambda: nn.functional.linear(x, weight * mask, bias), weight, bias)
            if number:  # the first round warms up
                best[which] = min(best[which], took)
        number += 1
    return best[0] / best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.5, help="at least five rounds, and so long, for each case")
    options = parser.parse_args()
    found: dict[str, float] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        seen = []
        for (inputs, outputs), batch, sparsity in itertools.product(SHAPES, BATCHES, SPARSITIES):
            seen.append(ratio(inputs, outputs, batch, sparsity, options.seconds))
            case = f"{inputs}->{outputs}, batch {batch}, sparsity {sparsity}, {threads} threads"
            found[case] = round(seen[-1], 3)
            print(f"{case}: {seen[-1]:.2f}{'  slower' if seen[-1] < SLOWER else ''}", flush=True)
        slower = sum(value < SLOWER for value in seen)
        print(f"{threads} threads: median {statistics.median(seen):.2f}, worst {min(seen):.2f}, {slower} slower")
        RESULTS.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
