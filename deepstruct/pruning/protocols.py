"""The five small protocols of pruning, and the error that says a request cannot be met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from deepstruct.errors import DeepstructError

if TYPE_CHECKING:
    from deepstruct.pruning.view import View

Tensors = dict[str, Tensor]
"""Name of a weight -> a tensor of the dense weight's shape."""

Density = float | Mapping[str, float]
"""The share of weights to keep: one number for all, or one for each name."""


class Infeasible(DeepstructError, ValueError):
    """No masks of the density asked for meet the constraint; nothing was changed."""


class Score(Protocol):
    """How much a connection is worth: the highest are kept, or grown."""

    def __call__(self, view: View) -> Tensors:
        """One number for each weight of each target, absent connections included."""
        ...


@dataclass(frozen=True)
class Group:
    """Weights that compete for places: `keep` of all those in `names` may stay."""

    names: tuple[str, ...]
    keep: int


class Scope(Protocol):
    """Which weights compete with which, and what is kept or dropped as one."""

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        """Every name in one group, with its budget."""
        ...

    def select(
        self, scores: Mapping[str, Tensor], density: Density, allowed: Mapping[str, Tensor] | None = None
    ) -> Tensors:
        """Masks that keep the best within the budgets, of what is allowed (None: everything)."""
        ...


Schedule = Callable[[int], "float | None"]
"""Step -> the density (or fraction) that should hold from then on; None where nothing is to happen."""


class Constraint(Protocol):
    """What masks must do beyond their size."""

    def __call__(self, masks: Tensors, scores: Tensors, choose: Callable[[Tensors], Tensors], view: View) -> Tensors:
        """The masks themselves where they are fine, others of the same budgets where not.

        Args:
            choose: scores -> masks within the budgets. A score of infinity means that a weight is needed.

        Raises Infeasible where there are no such masks.
        """
        ...
