"""Explicit graphs: edges a second and bytes an edge of compressed rows, of edge lists, and of igraph's own object.

    python -m benchmarks.graph.bench_explicit [--repeat N] [--igraph]

Each network is measured in a process of its own, on one thread. Seconds are processor time, the best of N. `peak` is
how far the resident memory grew while the rows were built, `held` what is left of it: both in bytes an edge.
`--igraph` measures what igraph takes in, beside its own constructor on a list of tuples that is ready made (the rate
that no way into igraph from Python exceeds).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from deepstruct import _native
from deepstruct.structure.graph import StructureGraph

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Block(nn.Module):
    """The basic block of a residual network."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.skip(x))


def resnet18() -> nn.Module:
    """The 18-layer residual network for images, with 1000 classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                               nn.MaxPool2d(3, 2, 1)]  # fmt: skip
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def mlp(*widths: int) -> nn.Module:
    """Linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "resnet18, 64 px, 90 %": (resnet18, (1, 3, 64, 64), 0.9),
    "resnet18, 64 px, 99 %": (resnet18, (1, 3, 64, 64), 0.99),
    "resnet18, 32 px, dense": (resnet18, (1, 3, 32, 32), 0.0),
    "mlp 4096-4096-4096, dense": (lambda: mlp(4096, 4096, 4096), (1, 4096), 0.0),
    "mlp 4096-4096-4096, 90 %": (lambda: mlp(4096, 4096, 4096), (1, 4096), 0.9),
    "mlp 784-1000-500-10, 90 %": (lambda: mlp(784, 1000, 500, 10), (1, 784), 0.9),
}


def make(name: str) -> StructureGraph:
    """The structure graph of one of the networks, pruned at random."""
    from deepstruct import extract

    build, shape, sparsity = NETS[name]
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    for p in model.parameters():
        if p.dim() > 1 and sparsity:
            p.mul_(torch.rand_like(p) >= sparsity)
    return extract(model, torch.zeros(shape))


class Resident:
    """Watches the resident memory from a thread of its own."""

    def __enter__(self) -> Resident:
        gc.collect()
        self.before = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.held = self._now() - self.before
        self.peak -= self.before

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE


def measured(run: Callable[[], Any], repeat: int) -> tuple[float, int, int]:
    """(seconds of processor time, peak bytes, held bytes): the best time, and the memory of the first run."""
    with Resident() as memory:
        kept = run()
    del kept
    best = float("inf")
    for _ in range(repeat):
        gc.collect()
        begin = time.thread_time()
        kept = run()
        best = min(best, time.thread_time() - begin)
        del kept
    return best, memory.peak, memory.held


def rows(name: str, repeat: int) -> None:
    """Edges a second and bytes an edge of everything that is built by ourselves."""
    graph = make(name)
    edges, nodes = graph.num_edges, graph.num_nodes
    print(f"{name}: {edges:,} edges, {nodes:,} nodes{'' if _native.load() else ' (without compiled kernels)'}")
    kinds: dict[str, Callable[[], Any]] = {
        "to_csr()": graph.to_csr,
        "to_csr(weights='float32')": lambda: graph.to_csr(weights="float32"),
        "to_csr(weights='float64')": lambda: graph.to_csr(weights="float64"),
        "edge_list()": graph.edge_list,
        "to_scipy()": graph.to_scipy,
    }
    for what, run in kinds.items():
        seconds, peak, held = measured(run, repeat)
        print(
            f"  {what:28s} {edges / seconds / 1e6:7.1f} M edges/s   peak {peak / edges:6.2f}   held {held / edges:6.2f}"
            f"   (nodes: {8 * nodes / edges:.2f})",
            flush=True,
        )


def into_igraph(name: str, repeat: int) -> None:
    """What igraph takes in, by our way and by its own best."""
    import igraph

    graph = make(name)
    edges = graph.num_edges
    csr = graph.to_csr()
    ready = list(zip(csr.sources().tolist(), csr.indices.tolist(), strict=True))
    ways: dict[str, Callable[[], Any]] = {
        "tuples, ready made": lambda: igraph.Graph(n=graph.num_nodes, edges=ready, directed=True),
        "to_igraph, no attributes": lambda: graph.to_igraph(attributes=False, weights=False, max_memory=None),
        "to_igraph": lambda: graph.to_igraph(max_memory=None),
    }
    print(f"{name}: {edges:,} edges, {graph.num_nodes:,} nodes")
    for what, run in ways.items():
        seconds, peak, held = measured(run, repeat)
        print(
            f"  {what:28s} {edges / seconds / 1e6:7.2f} M edges/s   peak {peak / edges:6.1f}   held "
            f"{held / edges:6.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--igraph", action="store_true")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    small = ("resnet18, 64 px, 99 %", "mlp 4096-4096-4096, 90 %", "mlp 784-1000-500-10, 90 %")
    work = into_igraph if arguments.igraph else rows
    for name in small if arguments.igraph else NETS:
        if arguments.only not in name:
            continue
        process = multiprocessing.get_context("fork").Process(target=work, args=(name, arguments.repeat))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
