"""Forward and backward of linear layers, dense, masked and sparse, interleaved in one run.

    python benchmarks/masked/bench_linear.py --table       the rows of docs/masked-layers.md
    python benchmarks/masked/bench_linear.py --quick       a part of the grid
    python benchmarks/masked/bench_linear.py --threads 2   the whole grid (long)

The peers sparseprop and sparselab take part if they can be imported. Times are the CPU time of this process
(wall time with several threads), the best of a number of rounds; a round times every contestant once.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepstruct.sparse import MaskedLinearLayer, SparseLinear, extension

SHAPES = [(784, 100), (1024, 1024), (4096, 4096), (4096, 1024)]
BATCHES = [1, 16, 64, 256, 1024]
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.99]
TABLE = [
    (4096, 4096, 256, 0.9),
    (4096, 4096, 256, 0.99),
    (1024, 1024, 256, 0.9),
    (4096, 4096, 1, 0.9),
    (4096, 4096, 64, 0.5),
    (4096, 4096, 256, 0.5),
]


class Contestant(NamedTuple):
    run: Callable[[Tensor], Tensor]
    parameters: list[nn.Parameter]


def contestants(weight: Tensor, mask: Tensor) -> dict[str, Contestant]:
    """Every way to compute x (W * M)', by name. `weight` is zero where `mask` is false."""
    out, inputs = weight.shape
    dense, eager = (nn.Parameter(weight.clone()) for _ in range(2))
    csr = nn.Parameter(weight.to_sparse_csr())
    masked = MaskedLinearLayer(inputs, out, bias=False)
    with torch.no_grad():
        masked.weight.copy_(weight)
        masked.mask[:] = mask
    sparse = SparseLinear.from_dense(weight, mask)
    found = {
        "dense": Contestant(lambda x: nn.functional.linear(x, dense), [dense]),
        "masked eager": Contestant(lambda x: nn.functional.linear(x, eager * mask), [eager]),
        "torch CSR": Contestant(lambda x: torch.sparse.mm(csr, x.T).T, [csr]),
        "MaskedLinearLayer": Contestant(masked, list(masked.parameters())),
        "SparseLinear": Contestant(sparse, list(sparse.parameters())),
    }
    for name, make in (("sparseprop", _sparseprop), ("sparselab", _sparselab)):
        peer = make(weight)
        if peer is not None:
            found[name] = peer
    return found


def _sparseprop(weight: Tensor) -> Contestant | None:
    try:
        import backend  # the name under which sparseprop installs its extension
        import sparseprop

        sparseprop.backend = backend
        from sparseprop.modules import SparseLinear as Peer
    except ImportError:
        return None
    layer = Peer(weight)
    return Contestant(layer, [layer.W_val])


def _sparselab(weight: Tensor) -> Contestant | None:
    try:
        import numpy
        import sparselab
    except ImportError:
        return None
    # It draws its own structure: give it ours, so that everybody computes the same product.
    layer = sparselab.SparseLinear(weight.shape[1], weight.shape[0], bias=False, sparsity=0.99)
    layer._csr = sparselab.PaddedCSR.from_dense(weight)
    layer._values = nn.Parameter(torch.from_numpy(numpy.asarray(layer._csr.values)))
    return Contestant(layer, [layer._values])


def measure(
    out: int, inputs: int, batch: int, sparsity: float, rounds: int, threads: int, seconds: float
) -> dict[str, tuple[float, float]]:
    """Milliseconds of forward, and of forward and backward, by contestant."""
    clock = time.process_time if threads == 1 else time.perf_counter
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(out, inputs, generator=generator) >= sparsity
    weight = torch.randn(out, inputs, generator=generator) * inputs**-0.5 * mask
    x = torch.randn(batch, inputs, generator=generator).requires_grad_()
    grad = torch.randn(batch, out, generator=generator)
    field = contestants(weight, mask)
    wanted = nn.functional.linear(x, weight).detach()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in field}
    begin = time.perf_counter()
    for number in range(rounds + 1):
        for name, (run, parameters) in list(field.items()):
            x.grad = None
            for parameter in parameters:
                parameter.grad = None
            try:
                start = clock()
                y = run(x)
                middle = clock()
                y.backward(grad)
                end = clock()
            except (RuntimeError, ValueError, NotImplementedError) as error:
                print(f"{name} drops out: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
                del field[name], times[name]
                continue
            if number == 0:  # the first round warms up, and is where results are compared
                torch.testing.assert_close(y.detach(), wanted, rtol=1e-3, atol=1e-3, msg=f"{name} is wrong")
            else:
                times[name].append((middle - start, end - start))
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
    return {name: (1e3 * min(t[0] for t in ts), 1e3 * min(t[1] for t in ts)) for name, ts in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=30, help="at most, about, for each case")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", help="write every time here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    grid = [(o, i, b, s) for i, o in SHAPES for b in BATCHES for s in SPARSITIES]
    if options.table:
        grid = TABLE
    elif options.quick:
        grid = [
            case for case in grid if case[0] < 4096 and case[2] in (16, 256) and case[3] in (0.5, 0.9, 0.99)
        ]
    print(
        f"torch {torch.__version__}, kernels {extension.isa()}, {options.threads} threads; "
        "milliseconds are forward / forward + backward"
    )
    rows, slower = [], []
    for out, inputs, batch, sparsity in grid:
        times = measure(out, inputs, batch, sparsity, options.rounds, options.threads, options.seconds)
        shown = "  ".join(f"{name} {t[0]:.2f}/{t[1]:.2f}" for name, t in times.items())
        print(f"{inputs}->{out}, batch {batch}, sparsity {sparsity}\n  {shown}")
        both = {name: t[1] for name, t in times.items()}
        peers = [both[name] for name in ("sparseprop", "sparselab") if name in both]
        for ours in ("SparseLinear", "MaskedLinearLayer"):
            line = f"  {ours}: {both['dense'] / both[ours]:.2f} over dense"
            line += f", {both['masked eager'] / both[ours]:.2f} over masked eager"
            print(
                line + (f", {min(peers) / both[ours]:.2f} over the better peer" if peers else ""), flush=True
            )
        slower.append(both["masked eager"] / both["MaskedLinearLayer"])
        case = (inputs, out, batch, sparsity, options.threads)
        rows += [(*case, name, *t) for name, t in times.items()]
    print(
        f"MaskedLinearLayer over masked eager: worst {min(slower):.2f}, "
        f"median {statistics.median(slower):.2f} of {len(slower)} cases"
    )
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("in", "out", "batch", "sparsity", "threads", "layer", "forward_ms", "both_ms"))
            writer.writerows(rows)


if __name__ == "__main__":
    main()
