"""Dense and masked eager layers in a process of their own whose matrix products stop at AVX2.

Libraries choose instructions when they are loaded, so a process cannot have both. This one works when it is told to,
a round at a time, so that its rounds lie between those of the others. It is there because the floors of these
benchmarks come from a processor on which torch multiplies with AVX2; where torch has AVX-512, its dense product is up
to twice as fast and the ratios are smaller.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LIMITS = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
SUFFIX = ", AVX2 sgemm"
ROOT = Path(__file__).resolve().parents[2]
Case = tuple[int, int, int, float, int]


class Narrow:
    """The other process; `round()` lets it run one round and returns seconds by contestant: forward, both."""

    def __init__(self, case: Case) -> None:
        command = [sys.executable, "-m", "benchmarks.masked.narrow", json.dumps(case)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **LIMITS}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def round(self) -> dict[str, tuple[float, float]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("go\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError("the process of the AVX2 products ended: see what it wrote above")
        return {name: (forward, both) for name, (forward, both) in json.loads(line).items()}

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def wanted() -> bool:
    """Whether torch would use more than AVX2 here."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512" and not any(name in os.environ for name in LIMITS)


def _serve(case: Case) -> None:
    import torch

    from benchmarks.masked import field

    out, inputs, batch, sparsity, threads = case
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(out, inputs, generator=generator) >= sparsity
    weight = torch.randn(out, inputs, generator=generator) * mask
    x = torch.randn(batch, inputs, generator=generator).requires_grad_()
    grad = torch.randn(batch, out, generator=generator)
    running = {"dense": field.dense(weight, mask), "masked eager": field.eager(weight, mask)}
    for _ in sys.stdin:
        times = {name + SUFFIX: contestant.turn(x, grad)[:2] for name, contestant in running.items()}
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    _serve(tuple(json.loads(sys.argv[1])))
