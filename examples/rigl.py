"""Rewiring while learning (RigL) against masks that stay, at 1 % and 5 % density, on MNIST.

LeNet-300-100 with Erdos-Renyi-Kernel densities. Every 10 steps, RigL drops the smallest weights and grows connections
where the gradient of the absent weights is largest (Evci et al. 2020); SET grows them at random. What rewiring gains
is mostly speed: static masks catch up where training is longer or its rate higher.
"""

from __future__ import annotations

from collections.abc import Callable

from common import arguments, fit, mean, mlp, mnist, picture, table

from deepstruct import pruning as P


def main() -> None:
    options = arguments(__doc__)
    epochs, size = (2, (600, 400)) if options.quick else (10, (4000, 1000))
    batch, every = 100, 5 if options.quick else 10
    steps = epochs * -(-size[0] // batch)
    methods: dict[str, Callable[[float, int], P.Rewire]] = {
        "static": lambda density, seed: P.static(density, seed=seed),
        "SET": lambda density, seed: P.SET(density, every=every, seed=seed),
        "RigL": lambda density, seed: P.RigL(density, end=int(0.75 * steps), every=every, seed=seed),
    }
    densities = (0.01, 0.05)
    found: dict[tuple[str, float], list[float]] = {(m, d): [] for m in methods for d in densities}
    for seed in range(options.seeds):
        data = mnist(seed, *size)
        for density in densities:
            for name, make in methods.items():
                model = mlp(seed=seed)
                attach = make(density, seed).attach
                found[name, density].append(fit(model, data, epochs, seed=seed, batch=batch, rate=1e-3, attach=attach))
        print(f"seed {seed} done")
    print()
    table(("method", *(f"density {d}" for d in densities)),
          [(name, *(mean(found[name, d]) for d in densities)) for name in methods])  # fmt: skip
    if not options.quick:
        gain = {d: mean(found["RigL", d]) - mean(found["static", d]) for d in densities}
        assert gain[0.01] >= 0.04, f"at 1 % rewiring pays: {gain[0.01]:.4f}"
        assert gain[0.05] < gain[0.01], "at 5 % the gap closes"

    def draw(axes) -> None:
        width = 0.25
        for k, name in enumerate(methods):
            axes.bar([i + k * width for i in range(len(densities))], [mean(found[name, d]) for d in densities], width,
                     label=name)  # fmt: skip
        axes.set_xticks([i + width for i in range(len(densities))], [f"density {d}" for d in densities])
        lowest = min(mean(v) for v in found.values())
        axes.set(ylabel="accuracy on the test images", title="Static and dynamic sparse training",
                 ylim=(max(0, lowest - 0.1), 1))  # fmt: skip
        axes.legend()

    picture(options.out / "rigl.png", draw)


if __name__ == "__main__":
    main()
