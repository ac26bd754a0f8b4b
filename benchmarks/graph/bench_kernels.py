"""The semiring kernels beside PyTorch, layer by layer: AlexNet and ResNet-50 shapes at several densities.

Usage: python benchmarks/graph/bench_kernels.py [--rounds 5] [--threads 1] [--only conv3x3]

Each line is one layer, density and semiring: milliseconds forward and transposed, nanoseconds per edge (entries of
the weights times positions), gigabytes a second (edges times the bytes of a value), and how much longer torch takes.
All times are medians of rounds that take turns, on whole operands: packing and writing included, compiling not.
They are the CPU time of this process, or wall time with several threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from deepstruct.engine import native
from deepstruct.engine.semiring import BOOLEAN, LONGEST, Counting, Modular, Semiring
from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, EdgeOperator, Matmul, Separable, WeightRef

PRIME = 2**40 - 87
SEMIRINGS: dict[str, Semiring] = {
    "sum_f32": Counting(torch.float32),
    "sum_f64": Counting(torch.float64),
    "mod": Modular(PRIME),
    "or_u8": BOOLEAN,
    "max_i32": LONGEST,
}


def operand(*shape: int) -> Operand:
    return Operand.strided(shape, torch.empty(shape, device="meta").stride(), 0)


def conv(inner: int, outer: int, size: int, kernel: int, stride: int, padding: int, density: float) -> Conv:
    weight = torch.randn(outer, inner, kernel, kernel) * (torch.rand(outer, inner, kernel, kernel) < density)
    out = (size + 2 * padding - kernel) // stride + 1
    return Conv(
        operand(1, inner, size, size), operand(1, outer, out, out), WeightRef(("w",), weight), (stride, stride),
        (padding, padding), (1, 1), False, (0, 0), 1,
    )  # fmt: skip


def linear(inner: int, outer: int, rows: int, density: float) -> Matmul:
    weight = torch.randn(outer, inner) * (torch.rand(outer, inner) < density)
    return Matmul(operand(rows, inner), operand(rows, outer), WeightRef(("w",), weight.T))


def pool(channels: int, size: int) -> Separable:
    out = (size - 1) // 2 + 1
    at = torch.arange(out)[:, None] * 2 - 1
    window = (torch.arange(size) >= at) & (torch.arange(size) < at + 3)
    return Separable(operand(1, channels, size, size), operand(1, channels, out, out), [None, None, window, window])


LAYERS: dict[str, Callable[[float], EdgeOperator]] = {
    "alexnet conv1 11x11/4": lambda d: conv(3, 64, 224, 11, 4, 2, d),
    "alexnet conv3 3x3": lambda d: conv(192, 384, 13, 3, 1, 1, d),
    "alexnet fc6": lambda d: linear(9216, 4096, 1, d),
    "resnet conv1 7x7/2": lambda d: conv(3, 64, 224, 7, 2, 3, d),
    "resnet 56 conv3x3": lambda d: conv(64, 64, 56, 3, 1, 1, d),
    "resnet 56 conv1x1": lambda d: conv(64, 256, 56, 1, 1, 0, d),
    "resnet 28 conv3x3/2": lambda d: conv(128, 128, 56, 3, 2, 1, d),
    "resnet 14 conv3x3": lambda d: conv(256, 256, 14, 3, 1, 1, d),
    "resnet 14 conv1x1": lambda d: conv(1024, 256, 14, 1, 1, 0, d),
    "resnet 7 conv3x3": lambda d: conv(512, 512, 7, 3, 1, 1, d),
    "vit mlp 197 rows": lambda d: linear(768, 3072, 197, d),
    "resnet pool 3x3/2": lambda d: pool(64, 112),
}


def values(semiring: Semiring, shape: tuple[int, ...]) -> torch.Tensor:
    if isinstance(semiring, Modular):
        return torch.randint(0, PRIME, shape)
    if semiring is LONGEST:
        return torch.randint(-1, 4, shape, dtype=torch.int32)
    return torch.randint(0, 2, shape).to(semiring.dtype)


def timed(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call; they take turns, and each round runs a call for 20 ms at least."""
    clock = time.process_time if native.threads() == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, into in zip(calls, times, strict=True):
            start, count = clock(), 0
            while count == 0 or clock() - start < 0.02:
                call()
                count += 1
            into.append((clock() - start) / count)
    return [statistics.median(part) for part in times]


def line(name: str, op: EdgeOperator, kernel: str, density: float, rounds: int) -> str:
    semiring = SEMIRINGS[kernel]
    shown = []
    for transpose in (False, True):
        read, written = (op.target, op.source) if transpose else (op.source, op.target)
        x = values(semiring, read.shape)
        out = torch.empty(written.shape, dtype=semiring.dtype)

        def ours(x: torch.Tensor = x, out: torch.Tensor = out, transpose: bool = transpose) -> bool:
            return native.push(op, kernel, x, out, transpose=transpose, prime=semiring.prime, join=False)

        if not ours():
            shown.append(f"{'torch':>8} {'':>6} {'':>6} {'':>6}")
            continue
        mine, theirs = timed(
            rounds, ours, lambda x=x, transpose=transpose: semiring.carry(op, x, transpose)  # type: ignore[misc]
        )
        edges = op.count()
        rate = edges * x.element_size() / mine / 1e9
        shown.append(f"{mine * 1e3:8.3f} {mine / edges * 1e9:6.3f} {rate:6.1f} {theirs / mine:6.1f}")
    return f"{name:<22} {density:>5g} {kernel:<8} | {shown[0]} | {shown[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="layers whose name contains this")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    if not native.available():
        return
    print(f"kernels: {native.isa()}, {native.threads()} threads; torch {torch.__version__}")
    head = f"{'ms':>8} {'ns':>6} {'GB/s':>6} {'torch':>6}"
    print(f"{'layer':<22} {'dens.':>5} {'':<8} | {head} | {head}  (transposed)")
    for name, make in LAYERS.items():
        if arguments.only not in name:
            continue
        for density in (1.0,) if "pool" in name else (1.0, 0.1, 0.01):
            op = make(density)
            for kernel in SEMIRINGS:
                print(line(name, op, kernel, density, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
