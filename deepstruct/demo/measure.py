"""Structure from the checkpoint files of a folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepstruct.checkpoints import load_weights
from deepstruct.demo.models import EXAMPLE_SHAPE, MODELS
from deepstruct.demo.pruning import prunable
from deepstruct.errors import CheckpointError

METRICS: dict[str, tuple[str, ...]] = {
    "zeroth": (
        "nodes",
        "edges",
        "weight_edges",
        "effective_nodes",
        "effective_edges",
        "dead_in",
        "dead_out",
        "path_count_log10",
    ),
    "first": ("nodes", "edges", "effective_nodes", "weakly_connected_components", "average_path_length"),
}
"""What is measured at which order."""


@dataclass
class Row:
    """One checkpoint: what its training noted, and the structure that was read from its file."""

    model: str
    step: int
    file: str
    accuracy: float
    sparsity: float
    values: dict[str, dict[str, Any]]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    conventions: dict[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """One level of columns: `zeroth_weight_edges` and so on. None for what was not computed."""
        head = {
            "model": self.model,
            "step": self.step,
            "file": self.file,
            "accuracy": round(self.accuracy, 6),
            "sparsity": round(self.sparsity, 6),
        }
        measured = {
            f"{order}_{name}": self.values.get(order, {}).get(name)
            for order, names in METRICS.items()
            for name in names
        }
        return head | measured

    def value(self, order: str, name: str) -> float:
        """A measured number; NaN when it was not computed."""
        value = self.values.get(order, {}).get(name)
        return math.nan if value is None else float(value)


def measure(path: Path) -> Row:
    """Load one checkpoint file into its architecture and measure it.

    The name of the file says which architecture; the JSON beside it has the accuracy. Raises
    CheckpointError when either is missing.
    """
    from deepstruct.api import analyze, extract

    notes = _notes(path)
    model = MODELS[notes["model"]]()
    load_weights(model, path)
    model.eval()
    # One reading of the model; metrics of one order only, since some are dear at the zeroth.
    units = extract(model, torch.zeros(EXAMPLE_SHAPE), order="zeroth")
    graphs = {"zeroth": units, "first": units.quotient("first")}
    reports = {order: analyze(graphs[order], metrics=names) for order, names in METRICS.items()}
    weights = [weight.detach() for weight in prunable(model).values()]
    total = sum(weight.numel() for weight in weights)
    left = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return Row(
        model=notes["model"],
        step=int(notes["step"]),
        file=path.name,
        accuracy=float(notes["accuracy"]),
        sparsity=1.0 - left / total,
        values={
            order: {name: reports[order][order][name] for name in names if name in reports[order][order]}
            for order, names in METRICS.items()
        },
        skipped=[
            {"name": line.name, "order": line.order, "reason": line.reason}
            for report in reports.values()
            for line in report.skipped
        ],
        conventions={k: str(v) for report in reports.values() for k, v in report.conventions.items()},
    )


def _notes(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    try:
        notes = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable notes beside it ({beside.name}): {error}") from error
    if notes.get("model") not in MODELS:
        raise CheckpointError(f"{beside}: model {notes.get('model')!r} is none of {', '.join(MODELS)}")
    return notes
