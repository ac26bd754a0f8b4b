"""A masked LSTM reads MNIST row by row: how few recurrent connections do, and which.

28 steps of 28 numbers, 64 hidden units, then a linear layer. Three ways to a density of all recurrent weights: random
masks from the beginning, masks that magnitude pruning reaches in the first two thirds of training (Zhu and Gupta 2018),
and a dense LSTM with fewer units and about as many weights.
"""

from __future__ import annotations

from typing import Any

import torch
from common import Data, arguments, fit, mean, mnist, picture, table
from torch import Tensor, nn

from deepstruct import pruning as P
from deepstruct.recurrent import MaskedDeepRNN, MaskedLSTMLayer

ROWS, FEATURES = 28, 28
LAYER = "rnn.*"


class Reader(nn.Module):
    """Images (n, 784) as sequences of rows; classes from the last hidden state."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rnn = MaskedDeepRNN(FEATURES, [hidden], MaskedLSTMLayer, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x.view(-1, ROWS, FEATURES)))
        return out


def weights(hidden: int) -> int:
    """Recurrent weights of a dense LSTM, biases apart."""
    return 4 * hidden * (FEATURES + hidden)


def smaller(hidden: int, density: float) -> int:
    """Units of a dense LSTM with about as many weights."""
    return max(1, max(n for n in range(1, hidden + 1) if weights(n) <= density * weights(hidden) or n == 1))


def trained(kind: str, density: float, hidden: int, data: Data, epochs: int, seed: int) -> float:
    """Accuracy on the test images."""
    settings: dict[str, Any] = {"seed": seed, "batch": 50, "rate": 3e-3}
    if kind == "fewer units":
        return fit(Reader(smaller(hidden, density), seed), data, epochs, **settings)
    model = Reader(hidden, seed)
    if density == 1:
        return fit(model, data, epochs, **settings)
    if kind == "random":
        P.prune(model, P.Random(), density, P.Layer(), only=LAYER, seed=seed)
        return fit(model, data, epochs, **settings)
    steps = epochs * -(-len(data.x) // settings["batch"])
    plan = P.Plan(P.Magnitude(), P.Layer(), P.cubic(density, 0, 2 * steps // 3, every=max(1, steps // 30)), only=LAYER)
    return fit(model, data, epochs, attach=plan.attach, **settings)


def main() -> None:
    options = arguments(__doc__, seeds=2)
    hidden, epochs, size = (32, 2, (400, 200)) if options.quick else (64, 5, (4000, 1000))
    densities = (1.0, 0.1) if options.quick else (1.0, 0.3, 0.1, 0.03)
    kinds = ("pruned", "random", "fewer units")
    found: dict[tuple[str, float], list[float]] = {(k, d): [] for k in kinds for d in densities}
    for seed in range(options.seeds):
        data = mnist(seed, *size)
        for density in densities:
            for kind in kinds:
                known = found["pruned", density]
                same = density == 1 and len(known) > seed  # a whole network is the same in all three
                found[kind, density].append(
                    known[seed] if same else trained(kind, density, hidden, data, epochs, seed)
                )
        results = [f"{k} {d}: {found[k, d][-1]:.3f}" for k in kinds for d in densities]
        print(f"seed {seed}: {', '.join(results)}", flush=True)
    print()
    table(
        ("density", "weights", "units", *kinds),
        [(d, round(d * weights(hidden)), smaller(hidden, d), *(mean(found[k, d]) for k in kinds)) for d in densities],
    )
    low = densities[-1]
    apart = mean(found["pruned", low]) - mean(found["random", low])
    print(f"\nat density {low}, masks found by pruning are {apart:+.3f} beside random ones")

    def draw(axes) -> None:
        for kind in kinds:
            axes.plot(densities, [mean(found[kind, d]) for d in densities], "o-", label=kind)
        axes.set(xscale="log", xlabel="density of the recurrent weights", ylabel="accuracy on the test images",
                 title="Reading digits row by row")  # fmt: skip
        axes.invert_xaxis()
        axes.legend()

    picture(options.out / "masked_lstm.png", draw)


if __name__ == "__main__":
    main()
