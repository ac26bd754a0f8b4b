"""Pruning: a score, a scope, a schedule and a constraint, put to work during training or at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Constraint, Density, Schedule, Scope, Score, Tensors
from deepstruct.pruning.schedules import one_shot
from deepstruct.pruning.scopes import Global
from deepstruct.pruning.session import Session
from deepstruct.pruning.view import View

Optimizer = torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None


class Plan:
    """Drop connections by `score`, within `scope`, to the densities of `schedule`, such that `constraint` holds.

    Args:
        score: `Magnitude()`, `SynFlow()`, ... or any function of a `View`.
        scope: `Global()`, `Layer()`, `ERK()`, `Channel()`, ...
        schedule: step -> density or None; a number means once, when it is attached.
        constraint: `outputs_alive()`, `no_dead()`, `connected()`, or None.
        only, skip: patterns of the names of weights (see `find_targets`).
        regrow: whether what was dropped may come back when its score is higher now.
        seed: of whatever is random.
        unknown_state: "raise", or "reset" to forget optimizer state that has no rule.
    """

    def __init__(
        self,
        score: Score,
        scope: Scope | None = None,
        schedule: Schedule | float = 1.0,
        constraint: Constraint | None = None,
        *,
        only: str | Iterable[str] | None = None,
        skip: str | Iterable[str] = (),
        regrow: bool = False,
        seed: int = 0,
        unknown_state: str = "raise",
    ) -> None:
        self.score, self.scope = score, Global() if scope is None else scope
        self.schedule = one_shot(float(schedule)) if isinstance(schedule, (int, float)) else schedule
        self.constraint, self.regrow = constraint, regrow
        self._settings: dict[str, Any] = {"only": only, "skip": skip, "seed": seed, "unknown_state": unknown_state}

    def attach(self, model: nn.Module, optimizer: Optimizer = None, *, example_input: Any = None) -> Session:
        """Begin (step 0 of the schedule is now). Call `step()` of what it returns after each `optimizer.step()`.

        Args:
            optimizer: whose state is to follow, one or several.
            example_input: for scores and constraints that need the graph; looked for on the model without it.
        """
        session = Session(
            model, optimizer, [self.score], self.schedule, self.masks, example_input=example_input, **self._settings
        )
        session._fire()
        return session

    def masks(self, view: View, density: Density) -> Tensors:
        """The masks that the plan wants for a model; nothing is changed. Raises Infeasible."""
        scores = checked(self.score(view), view)
        allowed = None if self.regrow else view.masks

        def choose(ranked: Tensors) -> Tensors:
            return self.scope.select(ranked, density, allowed)

        found = choose(scores)
        if self.constraint is None:
            return found
        room = view.given({n: torch.ones_like(m) for n, m in view.masks.items()}) if self.regrow else view
        return self.constraint(found, scores, choose, room)


def prune(
    model: nn.Module,
    score: Score,
    density: Density,
    scope: Scope | None = None,
    constraint: Constraint | None = None,
    *,
    rounds: int = 1,
    optimizer: Optimizer = None,
    example_input: Any = None,
    only: str | Iterable[str] | None = None,
    skip: str | Iterable[str] = (),
    seed: int = 0,
    unknown_state: str = "raise",
) -> Session:
    """Prune now, in place, in `rounds` rounds of equal shares that are scored anew each time (SynFlow wants 100).

    The other arguments are those of `Plan`. Returns the (closed) session with its history. Raises Infeasible with the
    model as the round before left it; in one round, as it was.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds}: at least 1")
    plan = Plan(
        score, scope, lambda step: None, constraint, only=only, skip=skip, seed=seed, unknown_state=unknown_state
    )
    session = plan.attach(model, optimizer, example_input=example_input)
    for k in range(1, rounds + 1):
        session.step_count = k
        masks = plan.masks(session.view(), _power(density, k / rounds))
        session.take(masks, density if isinstance(density, (int, float)) else None)
    session.close()
    return session


def _power(density: Density, share: float) -> Density:
    if isinstance(density, Mapping):
        return {name: value**share for name, value in density.items()}
    return density if share == 1 else density**share


def checked(scores: Tensors, view: View) -> Tensors:
    """Scores as they must be: one of the right shape for each target. Raises InputError."""
    if not isinstance(scores, Mapping):
        raise InputError(f"a score returns a tensor for each name, this one a {type(scores).__name__}")
    for name, shape in view.shapes.items():
        if name not in scores:
            raise InputError(f"the score has nothing for {name!r}")
        if tuple(scores[name].shape) != tuple(shape):
            found = tuple(scores[name].shape)
            raise InputError(f"the score of {name!r} is of shape {found}, the weight {tuple(shape)}")
    return {name: scores[name] for name in view.shapes}



