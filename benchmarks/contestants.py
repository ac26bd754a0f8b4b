"""Measurements of this package, as a server (see probe.serve).

Arguments of a job: "extract" or the name of an analyzer; then family, size and sparsity of a network, or
"target", the MLP that the targets speak of.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import deepstruct
from benchmarks import probe
from benchmarks.nets import FAMILIES, TARGET_MLP, Net, build, fill, mlp
from deepstruct.plugin.current import get_host

ANALYZERS = ("operator", "igraph", "networkx")
# What the analyzers have to agree on; path_count itself may have thousands of digits.
COMPARED = (
    "nodes", "edges", "in_degree_max", "out_degree_entropy", "strength_variance", "effective_nodes",
    "effective_edges", "dead_in", "path_count_log10", "longest_path", "shortest_path", "largest_component",
)  # fmt: skip


def panel(analyzer: str) -> list[str]:
    """The standard zeroth-order panel of the operator analyzer, as far as this analyzer offers it."""
    offers = [m for m in get_host().registry().metrics if "zeroth" in m.orders]
    standard = dict.fromkeys(m.name for m in offers if m.analyzer == "operator" and m.default)
    mine = {m.name for m in offers if m.analyzer == analyzer}
    return [name for name in standard if name in mine]


def job(arguments: list[str]) -> None:
    """One measurement."""
    contestant, *which = arguments
    warm_up((contestant,))  # in this process as well: its first use of a library reads pages of it
    if which == ["target"]:
        model, x = mlp(TARGET_MLP).eval(), torch.zeros(1, TARGET_MLP[0])
        fill(model, 0.0)
    else:
        family, size, share = which
        model, x = build(Net(family, int(size), float(share)))
    result, row = probe.measured(lambda: work(contestant, model, x))
    if contestant == "extract":
        probe.tell({**row, "edges": result.num_edges, "nodes": result.num_nodes})
        return
    values = result["zeroth"]
    probe.tell({
        **row,
        "edges": values["edges"],
        "nodes": values["nodes"],
        "metrics": len(result.rows),
        "skipped": {s.name: s.reason for s in result.skipped},
        "values": {name: float(values[name]) for name in COMPARED if name in values},
    })  # fmt: skip


def work(contestant: str, model: torch.nn.Module, x: torch.Tensor) -> Any:
    if contestant == "extract":
        return deepstruct.extract(model, x)
    return deepstruct.analyze(
        model, x, orders=("zeroth",), metrics=panel(contestant), analyzer=contestant, max_memory=1 << 60,
        settings={"max_operations": float("inf")},
    )  # fmt: skip


def warm_up(contestants: tuple[str, ...]) -> None:
    """Load plugins and kernels: once, not in each measurement."""
    for family in FAMILIES:
        for sparsity in (0.0, 0.5):
            for contestant in contestants:
                work(contestant, *build(Net(family, 1000, sparsity)))


if __name__ == "__main__":
    warm_up(("extract", *ANALYZERS))
    probe.serve(job)
