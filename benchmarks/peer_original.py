"""Measurements of the original deepstruct: its transform of a model into a graph. It has no metrics.

Runs in the environment that peers.py makes, as a server (see probe.serve). Arguments of a job: family, size
and sparsity of a network, or "target", the MLP that the targets speak of.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import probe
import torch
from nets import TARGET_MLP, Net, build, fill, mlp

np.float, np.int = float, int  # type: ignore[attr-defined]  # names that numpy dropped, before the import


from deepstruct.transform import GraphTransform  # noqa: E402

warnings.filterwarnings("ignore", message=".*ignoring sub-module of type.*Flatten")  # it has no edges anyway


def job(arguments: list[str]) -> None:
    """One measurement."""
    for family in ("mlp", "cnn"):
        transform(*build(Net(family, 1000, 0.0)))
    if arguments == ["target"]:
        model, x = mlp(TARGET_MLP).eval(), torch.zeros(1, TARGET_MLP[0])
        fill(model, 0.0)
    else:
        family, size, sparsity = arguments
        model, x = build(Net(family, int(size), float(sparsity)))
    # It wraps the forward of every module, once more at each run: each gets a model that it has not seen.
    once = sum(p.numel() for p in model.parameters()) > 1e6
    models = [model] if once else [copy.deepcopy(model) for _ in range(5)]
    graph, row = probe.measured(lambda: transform(models.pop(), x), most=len(models))
    probe.tell({**row, "edges": graph.number_of_edges(), "nodes": graph.number_of_nodes()})


def transform(model: torch.nn.Module, x: torch.Tensor) -> Any:
    return GraphTransform(x).transform(model)


if __name__ == "__main__":
    probe.serve(job)
