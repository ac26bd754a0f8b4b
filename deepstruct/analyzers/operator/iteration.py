"""Settings that all iterative metrics of the operator analyzer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.adjacency import has_vector_entry
from deepstruct.engine.lanczos import Dot, plain_dot
from deepstruct.errors import MetricError


@dataclass(frozen=True)
class Iteration:
    """How far to iterate, from which start, and with which inner product.

    Settings: "max_iterations" (applications of the map, 300), "tolerance" (relative residual, 1e-7),
    "iteration_seed" (0).
    """

    steps: int
    tolerance: float
    seed: int
    dot: Dot

    @property
    def tight(self) -> float:
        """For fixed-point iterations, whose last change understates what is left."""
        return self.tolerance * 1e-3

    def start(self, view: OperatorView, *, positive: bool = False) -> torch.Tensor:
        """A random vector over slots, 0 where there is no node."""
        generator = torch.Generator().manual_seed(self.seed)
        slots = view.graph.num_slots
        values = (
            torch.rand(slots, generator=generator, dtype=torch.float64) + 0.5
            if positive
            else torch.randn(slots, generator=generator, dtype=torch.float64)
        )
        return values * has_vector_entry(view.graph)


def iteration(view: OperatorView) -> Iteration:
    """The settings of a view. Raises MetricError for ones that make no sense."""
    settings = view.context.settings
    steps = int(settings.get("max_iterations", 300))
    tolerance = float(settings.get("tolerance", 1e-7))
    if steps < 1:
        raise MetricError(f"the setting 'max_iterations' is {steps}: give 1 or more")
    if not 0 < tolerance < 1:
        raise MetricError(f"the setting 'tolerance' is {tolerance:g}: give a number between 0 and 1")
    return Iteration(steps, tolerance, int(settings.get("iteration_seed", 0)), inner_product(view))


def inner_product(view: OperatorView) -> Dot:
    """Over nodes; the plain one of slots where every unit has a slot of its own."""
    try:
        view.need_explicit_units("the inner product")
    except MetricError:
        return view.dot
    return plain_dot


T = TypeVar("T")
_known: WeakKeyDictionary[OperatorView, dict[str, Any]] = WeakKeyDictionary()


def once(view: OperatorView, key: str, compute: Callable[[], T]) -> T:
    """`compute()`, remembered for as long as the view lives: for results that several metrics tell a part of."""
    results = _known.setdefault(view, {})
    if key not in results:
        results[key] = compute()
    value: T = results[key]
    return value
