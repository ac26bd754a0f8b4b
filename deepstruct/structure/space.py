"""A space: the units that one operation created, as one block of slots."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from deepstruct.structure.scores import Scores


@dataclass
class Space:
    """Units of one layer.

    Attributes:
        name: readable and unique in its graph: module path and operation.
        path: path of the module whose forward created it ("" for the model itself).
        kind: "source", "embedding", "contraction", "mix", "sum", "product", "merge", "window", "reduce",
            "stats", "dense", "recurrent", or "channels", "layer", "cell" at the higher orders.
        shape: of the activation tensor; slots are numbered in row-major order from `offset`.
        scores: of implicit attention scores, whose slots are carriers and not units (see `structure.scores`);
            `shape` is then that of the units.
        additive: whether a unit is a plain sum of what it reads, so that it can be part of a later sum.
        live: boolean per slot, False where there is no unit (a constant row, a masked score); None if all are.
        call, position: index of the call, and of the op, of the trace that created it.
        node_names: names of the units, where they have some (graphs that were not made from a model).
        members: at second and third order, names of the spaces of the order below that it stands for.
        value: of a source, the value of the trace whose elements its units are.
    """

    index: int
    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    additive: bool = False
    live: torch.Tensor | None = None
    call: int = 0
    position: int = 0
    node_names: list[str] | None = None
    value: int | None = None
    members: tuple[str, ...] = ()
    scores: Scores | None = None

    @property
    def numel(self) -> int:
        """Slots that it holds: its units, or the carriers of implicit scores."""
        return math.prod(self.shape) if self.scores is None else self.scores.carriers

    @property
    def slots(self) -> slice:
        return slice(self.offset, self.offset + self.numel)

    @property
    def is_source(self) -> bool:
        return self.kind in ("source", "embedding")
