"""Checkpoints a second of `deepstruct batch`: LeNet-5 and ResNet-18, one worker and two, and weightwatcher beside it.

    python benchmarks/bench_batch.py [--lenet 1000] [--resnet 40] [--watched 20] [--workers 1,2]
        [--kinds 'dense,pruned,90 % pruned'] [--json out.json]

The standard panel at zeroth order, one thread a worker. Rates count from the first result on, as for a long run: the
trace of the model and the start of workers are told apart. weightwatcher (PyPI; left out where it is not installed) and
deepstruct then compute what both have, per layer: power-law exponent, norms and stable rank of the weight matrices.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import deepstruct  # noqa: E402

SHARED = ("layer_alpha", "layer_stable_rank", "layer_log10_frobenius_norm", "layer_log10_spectral_norm")
"""What weightwatcher and deepstruct both compute for each layer."""


class LeNet(nn.Module):
    """LeNet-5 for 28 x 28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a skip."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.skip = nn.Sequential()
        if stride != 1 or before != width:
            self.skip = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class ResNet18(nn.Module):
    """ResNet-18 as it is used on 32 x 32 images: a first convolution of 3 x 3, no first pool (11.2 M weights)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        widths = [64, 64, 128, 256, 512]
        blocks = []
        for k, (before, width) in enumerate(itertools.pairwise(widths)):
            blocks += [Block(before, width, 1 if k == 0 else 2), Block(width, width, 1)]
        self.layers = nn.Sequential(*blocks)
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


NETS = {"LeNet-5": (LeNet, (1, 1, 28, 28)), "ResNet-18 at 32x32": (ResNet18, (1, 3, 32, 32))}


KINDS = {"dense": None, "pruned": 0.0, "90 % pruned": 0.9}
"""Share of zeros in the first checkpoint, and then more in each, another fifth of the rest in the end."""


def write_checkpoints(folder: Path, factory: type[nn.Module], count: int, zeros: float | None) -> None:
    """A training that leaves other weights in each file, and more zeros where there are any (see KINDS)."""
    state = {key: value.clone() for key, value in factory().state_dict().items()}
    for k in range(count):
        with torch.no_grad():
            for value in state.values():
                if value.is_floating_point() and value.dim() > 1:
                    value += 0.01 * torch.randn_like(value) * (value != 0)
                    if zeros is not None:
                        value *= torch.rand_like(value) > (1 / (4 * count) if k else zeros)
        torch.save(state, folder / f"step-{k}.pt")


def run(folder: Path, net: str, workers: int, metrics: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Seconds to the first result, and the rate after that."""
    factory, shape = NETS[net]
    out = folder.parent / f"{folder.name}-{workers}.db"
    out.unlink(missing_ok=True)
    began = time.perf_counter()
    results = deepstruct.batch(
        folder, factory, torch.zeros(shape), out=out, workers=workers, threads=1, metrics=metrics
    )
    times, values = [], 0
    for result in results:
        assert result.state == "ok", result.error
        times.append(time.perf_counter())
        values += len(result.rows)
    results.close()
    skip = min(workers, len(times) - 1)  # the first of each worker waits for its start
    rate = (len(times) - skip) / (times[-1] - times[skip - 1])
    return {"net": net, "workers": workers, "checkpoints": len(times), "first": times[skip - 1] - began, "rate": rate,
            "whole": len(times) / (times[-1] - began), "values": values // len(times)}  # fmt: skip


def watch(folder: Path, net: str, count: int) -> dict[str, Any] | None:
    """The rate of weightwatcher on the first checkpoints; None where it is not installed."""
    if importlib.util.find_spec("weightwatcher") is None:
        return None
    os.environ.setdefault("MPLBACKEND", "Agg")
    import logging

    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    factory, _ = NETS[net]
    files = sorted(folder.iterdir())[:count]
    began = time.perf_counter()
    layers = 0
    for file in files:
        model = factory()
        model.load_state_dict(torch.load(file, weights_only=True))
        layers = len(weightwatcher.WeightWatcher(model=model).analyze(plot=False, randomize=False))
    return {"net": net, "peer": "weightwatcher", "checkpoints": len(files), "layers": layers,
            "rate": len(files) / (time.perf_counter() - began)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenet", type=int, default=1000)
    parser.add_argument("--resnet", type=int, default=40)
    parser.add_argument("--watched", type=int, default=20)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        todo = (("LeNet-5", options.lenet), ("ResNet-18 at 32x32", options.resnet))
        for (net, count), kind in itertools.product(todo, options.kinds.split(",")):
            if not count:
                continue
            folder = Path(place) / f"{net.split('-')[0]}-{kind.replace(' ', '')}"
            folder.mkdir()
            write_checkpoints(folder, NETS[net][0], count, KINDS[kind])
            rates = {}
            for workers in (int(text) for text in options.workers.split(",")):
                row = run(folder, net, workers)
                rates[workers] = row["rate"]
                found.append(row)
                gain = f", {row['rate'] / rates[1]:.2f} x one" if workers > 1 and 1 in rates else ""
                row["kind"] = kind
                print(f"{net}, {kind}: {count} checkpoints, {row['values']} values each, {workers} worker(s): "
                      f"{row['rate']:.2f}/s{gain} ({row['first']:.1f} s to the first)", flush=True)  # fmt: skip
            if options.watched and kind == "dense":
                peer = watch(folder, net, options.watched)
                few = Path(place) / f"{folder.name}-few"
                few.mkdir()
                for file in sorted(folder.iterdir())[: options.watched]:
                    os.link(file, few / file.name)
                ours = run(few, net, 1, SHARED)
                found.append({**ours, "metrics": SHARED})
                print(f"{net}: {', '.join(SHARED)}: deepstruct {ours['rate']:.2f}/s", end="")
                if peer is not None:
                    found.append(peer)
                    print(f", weightwatcher {peer['rate']:.2f}/s", end="")
                print("" if peer is not None else " (weightwatcher is not installed)", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
