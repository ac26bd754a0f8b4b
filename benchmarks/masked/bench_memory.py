"""Memory of training one 4096x4096 layer with Adam: bytes of its tensors, and the peak of the process in a step.

    python -m benchmarks.masked.bench_memory [--sparsity 0.9]

Each contestant runs in a process of its own. "kept" is parameters, gradients, optimizer state and buffers after a
step; "peak" is how far the resident memory of the process rose above what it was before the layer was made, reset
after the first step, so that making the layer does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from deepstruct.sparse import MaskedLinearLayer, SparseLinear, calibration, extension

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "masked_memory.json"
SIZE = 4096
KINDS = ("dense", "masked eager", "MaskedLinearLayer", "SparseLinear")


class _Eager(nn.Linear):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__(SIZE, SIZE, bias=False)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.mask)


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (the most so far) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this needs Linux")


def layer_of(kind: str, mask: torch.Tensor) -> nn.Module:
    if kind == "dense":
        return nn.Linear(SIZE, SIZE, bias=False)
    if kind == "masked eager":
        return _Eager(mask)
    if kind == "SparseLinear":
        return SparseLinear(SIZE, SIZE, bias=False, mask=mask)
    layer = MaskedLinearLayer(SIZE, SIZE, bias=False)
    layer.mask = mask
    return layer


def warm_up() -> None:
    """What is imported, or measured, at the first use of an optimizer or a layer is no part of their memory."""
    small = nn.Linear(8, 8)
    optimizer = torch.optim.Adam(small.parameters())
    small(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    if extension.path() is not None:
        calibration.crossovers()


def one(kind: str, sparsity: float, batch: int) -> dict[str, float | str]:
    """Kept and peak megabytes (10^6 bytes) of one kind of layer."""
    torch.set_num_threads(1)
    mask = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) >= sparsity
    x = torch.randn(batch, SIZE)
    warm_up()
    before = resident("VmRSS")
    layer = layer_of(kind, mask)
    optimizer = torch.optim.Adam(layer.parameters())
    for number in range(3):
        if number == 1:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    tensors = [*layer.parameters(), *layer.buffers(), *(p.grad for p in layer.parameters() if p.grad is not None)]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    kept = sum(t.numel() * t.element_size() for t in tensors)
    trained = sum(t.numel() * t.element_size() for t in tensors) - sum(
        t.numel() * t.element_size() for t in layer.buffers()
    )
    return {
        "layer": kind, "kept_MB": kept / 1e6, "without_structure_MB": trained / 1e6,
        "peak_MB": (resident("VmHWM") - before) / 1e6,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--one", choices=KINDS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.sparsity, options.batch)))
        return
    rows = []
    for kind in KINDS:
        command = [sys.executable, "-m", "benchmarks.masked.bench_memory", "--one", kind]
        command += ["--sparsity", str(options.sparsity), "--batch", str(options.batch)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{k} {v if isinstance(v, str) else round(v, 1)}" for k, v in rows[-1].items()), flush=True)
    settings = {"size": SIZE, "sparsity": options.sparsity, "batch": options.batch}
    RESULTS.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
