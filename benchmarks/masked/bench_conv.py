"""Forward and backward of masked 3x3 convolutions: masked eager, dense and sparse execution, interleaved.

python benchmarks/masked/bench_conv.py
"""

from __future__ import annotations

import time

import torch
from torch import nn

from deepstruct.sparse import MaskedConv2d

CASES = [(128, 28, 8), (256, 14, 8), (512, 7, 16)]


def main() -> None:
    torch.set_num_threads(1)
    for channels, size, batch in CASES:
        for density in (0.1, 0.05, 0.02, 0.01):
            mask = torch.rand(channels, channels, 3, 3, generator=torch.Generator().manual_seed(0)) < density
            layers = {
                name: MaskedConv2d(channels, channels, 3, padding=1, bias=False, backend=name)
                for name in ("dense", "sparse", "auto")
            }
            eager = nn.Parameter(layers["dense"].weight.detach().clone())
            for layer in layers.values():
                layer.mask[:] = mask
            runs = {name: (layer, layer.weight) for name, layer in layers.items()}
            runs["eager"] = (lambda x, w=eager, m=mask: nn.functional.conv2d(x, w * m, padding=1), eager)
            x = torch.randn(batch, channels, size, size, requires_grad=True)
            best = dict.fromkeys(runs, float("inf"))
            for _ in range(5):
                for name, (run, weight) in runs.items():
                    weight.grad = x.grad = None
                    start = time.process_time()
                    run(x).sum().backward()
                    best[name] = min(best[name], time.process_time() - start)
            shown = "  ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in best.items())
            print(
                f"{channels} channels, {size}x{size}, batch {batch}, density {density}: {shown}", flush=True
            )


if __name__ == "__main__":
    main()
