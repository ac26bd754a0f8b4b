"""An artificial landscape: what pruning costs when a function of two numbers is to be learned.

f(x, y) = 20 + x - 1.8 (y - 5) + 3 sin(x + 2 y) y + (x / 4)^4 + (y / 4)^4 on [-2, 2] x [-2, 2] (Stier and Granitzer). A
network learns it from samples, and is pruned while it learns, to several densities.
"""

from __future__ import annotations

import numpy as np
import torch
from common import arguments, mean, mlp, picture, table
from torch import Tensor, nn

from deepstruct import pruning as P
from deepstruct.dataset import FuncDataset


def landscape(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The function."""
    return 20 + x - 1.8 * (y - 5) + 3 * np.sin(x + 2 * y) * y + (x / 4) ** 4 + (y / 4) ** 4


def samples(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (size, 2) and values (size, 1) of the function."""
    rng = np.random.default_rng(seed)
    data = FuncDataset(
        lambda p: np.array([landscape(*p.numpy())]), size, (2,), sampler=lambda: rng.uniform(-2, 2, size=2)
    )
    pairs = [data[k] for k in range(len(data))]
    points, values = (torch.stack([pair[k].float() for pair in pairs]) for k in (0, 1))
    return points, values.reshape(size, 1)


def main() -> None:
    options = arguments(__doc__)
    size, steps = (200, 60) if options.quick else (2000, 3000)
    densities = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
    errors: dict[float, list[float]] = {density: [] for density in densities}
    learned: dict[float, nn.Module] = {}
    for seed in range(options.seeds):
        x, y = samples(size, seed)
        test_x, test_y = samples(size, 1000 + seed)
        center, scale = y.mean(), y.std()
        for density in densities:
            model = mlp((2, 64, 64, 64, 1), seed)
            optimizer = torch.optim.Adam(model.parameters(), 5e-3)
            schedule = P.cubic(density, steps // 6, steps * 2 // 3, every=max(steps // 60, 1))
            plan = P.Plan(P.Magnitude(), P.Global(), schedule, P.outputs_alive())
            with plan.attach(model, optimizer, example_input=x[:1]) as session:
                for _ in range(steps):
                    optimizer.zero_grad()
                    nn.functional.mse_loss(model(x), (y - center) / scale).backward()
                    optimizer.step()
                    session.step()
            with torch.no_grad():
                error = (model(test_x) * scale + center - test_y).square().mean().sqrt()
            errors[density].append(error.item())
            learned[density] = model
    table(("density", "weights", "error on new points (rms)"),
          [(d, round(d * (128 + 2 * 64 * 64 + 64)), mean(errors[d])) for d in densities])  # fmt: skip

    def draw(axes) -> None:
        line = np.linspace(-2, 2, 200)
        axes.plot(line, landscape(np.zeros(200), line), "k", lw=3, alpha=0.3, label="f(0, y)")
        points = torch.tensor(np.stack([np.zeros(200), line], 1), dtype=torch.float32)
        for density in densities[::2]:
            with torch.no_grad():
                values = learned[density](points) * scale + center
            axes.plot(line, values.flatten(), label=f"density {density}")
        axes.set(xlabel="y", title="A landscape, learned at several densities")
        axes.legend()

    picture(options.out / "landscape.png", draw)


if __name__ == "__main__":
    main()
