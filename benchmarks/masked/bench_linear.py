"""Forward and backward of linear layers, dense, masked and sparse, interleaved in one run.

    python -m benchmarks.masked.bench_linear                    the whole grid, on one thread and on two (hours)
    python -m benchmarks.masked.bench_linear --budget 200       as many of its missing cases as fit into 200 seconds
    python -m benchmarks.masked.bench_linear --table            the rows of docs/masked-layers.md, measured anew
    python -m benchmarks.masked.bench_linear --report           table and picture of what is there

Every case that is done is in benchmarks/results/masked.json and is not measured again (unless --again): the grid can
be run in pieces. The peers are built on first use (see field.find_peers). Times are the CPU time of this process
(wall time with several threads), the median of a number of rounds, in which contestants take turns: one step each, or
the best of as many as fit into 10 ms. Where torch multiplies with AVX-512, dense and masked eager are also timed with
products that stop at AVX2 (see narrow).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.masked import field, narrow, report
from deepstruct.sparse import extension

SHAPES = [(784, 100), (1024, 1024), (4096, 1024), (4096, 4096)]
BATCHES = [1, 16, 64, 256, 1024]
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.99]
RESULTS = Path(__file__).resolve().parents[1] / "results" / "masked.json"
Case = tuple[int, int, int, float, int]  # out, in, batch, sparsity, threads
TABLE: list[Case] = [
    (4096, 4096, 256, 0.9, 1),
    (4096, 4096, 256, 0.99, 1),
    (1024, 1024, 256, 0.9, 1),
    (4096, 4096, 1, 0.9, 1),
    (4096, 4096, 64, 0.5, 1),
    (4096, 4096, 256, 0.5, 1),
    (4096, 4096, 256, 0.9, 2),
    (4096, 4096, 256, 0.99, 2),
]


def key(case: Case) -> str:
    out, inputs, batch, sparsity, threads = case
    return f"{inputs}->{out}, batch {batch}, sparsity {sparsity}, {threads} threads"


def measure(case: Case, rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Milliseconds of forward, and of forward and backward, by contestant."""
    out, inputs, batch, sparsity, threads = case
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(out, inputs, generator=generator) >= sparsity
    weight = torch.randn(out, inputs, generator=generator) * inputs**-0.5 * mask
    x = torch.randn(batch, inputs, generator=generator).requires_grad_()
    grad = torch.randn(batch, out, generator=generator)
    running = field.contestants(weight, mask)
    wanted = nn.functional.linear(x, weight).detach()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    other = narrow.Narrow(case) if narrow.wanted() else None
    begin = time.perf_counter()
    for number in range(rounds + 1):
        for name, contestant in list(running.items()):
            try:
                forward, both, y = contestant.turn(x, grad)
            except (RuntimeError, ValueError, IndexError, NotImplementedError) as error:
                print(f"{name} drops out: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
                del running[name], times[name]
                continue
            if number == 0:  # the first round warms up, and is where results are compared
                torch.testing.assert_close(y, wanted, rtol=1e-3, atol=1e-3, msg=f"{name} is wrong")
            else:
                times[name].append((forward, both))
        for name, seen in (other.round() if other else {}).items():
            if number > 0:
                times.setdefault(name, []).append(seen)
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
    if other:
        other.close()
    median = statistics.median
    return {name: (1e3 * median(t[0] for t in ts), 1e3 * median(t[1] for t in ts)) for name, ts in times.items()}


def alone(case: Case, rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """The same in a process of its own: what earlier cases left in the allocator would decide what memory costs."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=field.find_peers) as pool:
        return pool.apply(measure, (case, rounds, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="only cases of so many threads")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20, help="at most, about, for each case")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no case is begun")
    parser.add_argument("--table", action="store_true", help="measure the cases of the table again, and no others")
    parser.add_argument("--again", action="store_true", help="measure cases that are there already, too")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    begin = time.perf_counter()
    found: dict[str, Any] = json.loads(options.results.read_text()) if options.results.exists() else {}
    if not options.report:
        field.find_peers()
        grid = [(o, i, b, s, t) for t in (1, 2) for i, o in SHAPES for b in BATCHES for s in SPARSITIES]
        # The cases of the table come first, then what is quick.
        grid = TABLE if options.table else TABLE + sorted(set(grid) - set(TABLE), key=lambda c: c[0] * c[1] * c[2])
        for case in grid:
            known = key(case) in found and not options.again and not options.table
            if known or (options.threads and case[4] != options.threads):
                continue
            if time.perf_counter() - begin > options.budget:
                break
            times = alone(case, options.rounds, options.seconds)
            found[key(case)] = {
                "case": case, "kernels": extension.isa(), "torch": torch.__version__, "milliseconds": times
            }  # fmt: skip
            options.results.write_text(json.dumps(found, indent=1))
            print(report.line(found[key(case)]), flush=True)
    slower = report.over_eager(list(found.values()))
    if slower:
        print(
            f"MaskedLinearLayer over masked eager: worst {min(slower):.2f}, "
            f"median {statistics.median(slower):.2f} of {len(slower)} cases"
        )
    options.results.with_suffix(".md").write_text(report.table(list(found.values())))
    report.picture(list(found.values()), options.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
