"""Structural priors on MNIST: networks whose hidden units are the vertices of random graphs.

Graphs of one size from several families become networks with skip connections (MaskedDeepDAN), are trained, and their
accuracy is set beside what deepstruct measures of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from common import arguments, fit, mean, mnist, picture, table

import deepstruct
from deepstruct import graph as graphs
from deepstruct.sparse import MaskedDeepDAN


def main() -> None:
    options = arguments(__doc__)
    n, epochs, size = (30, 1, (600, 400)) if options.quick else (200, 5, (4000, 1000))
    families: dict[str, Callable[[int], Any]] = {
        "Erdos-Renyi": lambda seed: graphs.erdos_renyi(n, 8 / n, seed=seed),
        "Watts-Strogatz .1": lambda seed: graphs.watts_strogatz(n, 8, 0.1, seed=seed),
        "Watts-Strogatz 1": lambda seed: graphs.watts_strogatz(n, 8, 1.0, seed=seed),
        "Barabasi-Albert": lambda seed: graphs.barabasi_albert(n, 4, seed=seed),
        "tree": lambda seed: graphs.tree(2, 4 if options.quick else 7),
    }
    rows = []
    for name, make in families.items():
        results, values = [], []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = MaskedDeepDAN(784, 10, make(seed), skips="sum", readout="sinks")
            results.append(fit(model, mnist(seed, *size), epochs, seed=seed))
            values.append(measured(model))
        rows.append((name, *(mean(value[k] for value in values) for k in range(3)), mean(results)))
    table(("graph", "hidden vertices", "hidden edges", "layers", "accuracy"), rows)

    def draw(axes) -> None:
        for name, _, _, layers, result in rows:
            axes.scatter(layers, result, s=60)
            axes.annotate(name, (layers, result), xytext=(6, 4), textcoords="offset points")
        axes.set(xlabel="layers of the graph", ylabel="accuracy on the test images", title="Structural priors")
        axes.margins(0.2)

    picture(options.out / "structural_priors.png", draw)


def measured(model: torch.nn.Module) -> tuple[float, float, float]:
    """Hidden vertices and edges of the model's graph, and the edges on its longest path."""
    report = deepstruct.analyze(
        model.eval(), torch.randn(1, 784), orders=("zeroth",), metrics=["nodes", "weight_edges", "longest_path"]
    )
    values = report["zeroth"]
    structure = model.generate_structure()  # type: ignore[operator]
    return float(structure.number_of_nodes()), float(structure.number_of_edges()), float(values["longest_path"])


if __name__ == "__main__":
    main()
