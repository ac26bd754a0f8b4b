"""Lottery tickets on MNIST: subnetworks found by pruning learn as well as the whole, from the same beginning only.

LeNet-300-100 is trained, pruned by 20 % (the output layer by 10 %), set back to its first weights and trained again,
many times (Frankle and Carbin 2019). Beside each ticket: the same masks with fresh weights, and the same number of
connections per layer at random places. Takes some minutes for three seeds; --quick takes seconds.
"""

from __future__ import annotations

from common import arguments, fit, mean, mlp, mnist, picture, table
from torch import nn

from deepstruct import pruning as P


def main() -> None:
    options = arguments(__doc__)
    rounds, epochs, shown = (3, 1, (0, 1, 2)) if options.quick else (17, 10, (0, 8, 11, 14, 16))
    found: dict[int, dict[str, list[float]]] = {k: {"ticket": [], "fresh": [], "permuted": []} for k in shown}
    density: dict[int, float] = {}
    for seed in range(options.seeds):
        data = mnist(seed, *((600, 400) if options.quick else ()))
        model = mlp(seed=seed)
        start = P.snapshot(model)

        def train(net: nn.Module, seed: int = seed, data=data) -> float:
            return fit(net, data, epochs, seed=seed)

        tickets = P.iterate(train, model, P.keep(0.8, {"4.weight": 0.9}), rounds, rewind=start)
        for k in shown:
            ticket = tickets[k]
            density[k] = ticket.density
            found[k]["ticket"].append(ticket.result)
            for name, masks, weights in (
                ("fresh", ticket.masks, mlp(seed=1000 + seed)),
                ("permuted", P.permuted(ticket.masks, seed), mlp(seed=seed)),
            ):
                P.set_masks(weights, masks)
                found[k][name].append(train(weights))
        print(f"seed {seed}: " + " ".join(f"{t.density:.3f}:{t.result:.3f}" for t in tickets))

    print()
    table(
        ("density", "ticket", "fresh weights", "permuted masks"),
        [(density[k], *(mean(found[k][kind]) for kind in ("ticket", "fresh", "permuted"))) for k in shown],
    )
    if not options.quick:
        check(found)

    def draw(axes) -> None:
        for kind in ("ticket", "fresh", "permuted"):
            axes.plot([density[k] for k in shown], [mean(found[k][kind]) for k in shown], "o-", label=kind)
        axes.set(xscale="log", xlabel="density", ylabel="accuracy on the test images", title="Lottery tickets")
        axes.invert_xaxis()
        axes.legend()

    picture(options.out / "lottery_ticket.png", draw)


def check(found: dict[int, dict[str, list[float]]]) -> None:
    """What the experiment is to show, in the means over the seeds."""
    dense = mean(found[0]["ticket"])
    assert mean(found[8]["ticket"]) >= dense - 0.005, "a ticket at density .169 is as good as the whole network"
    for k in (11, 14, 16):
        gain = mean(found[k]["ticket"]) - mean(found[k]["fresh"])
        assert gain >= 0.01, f"the first weights matter: {gain:.4f} after {k} rounds"


if __name__ == "__main__":
    main()
