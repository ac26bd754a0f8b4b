"""Dynamic sparse training: connections that move while the network learns, at a density that stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.pruning.plan import Optimizer, checked
from deepstruct.pruning.protocols import Constraint, Schedule, Scope, Score, Tensors
from deepstruct.pruning.schedules import constant, cosine
from deepstruct.pruning.scopes import ERK, Layer, best
from deepstruct.pruning.scores import Gradient, Magnitude, Random
from deepstruct.pruning.session import Session
from deepstruct.pruning.view import View


class Rewire:
    """Every so often, drop a fraction of each layer's connections and grow as many others.

    Args:
        init: the scope (with a density of its own, as `ERK(.01)`) of the masks to begin with, drawn at random; or a
            function of a View that returns masks; None keeps the masks that the model has.
        drop: connections with the lowest score go.
        grow: absent ones with the highest score come, with weight 0.
        fraction: step -> fraction f of the connections of each layer to move, int(f * connections), or None; with
            `every`, it is asked at multiples of that only. None never moves anything (static sparse training).
        every: steps from one change to the next.
        regrow: whether growth may take back what the same change dropped; then it keeps its weight. True, as in
            RigL's algorithm.
        constraint: kept to by every change and by the beginning, or None.
    """

    def __init__(
        self,
        init: Scope | Callable[[View], Tensors] | None = None,
        drop: Score | None = None,
        grow: Score | None = None,
        fraction: Schedule | None = None,
        every: int = 1,
        *,
        constraint: Constraint | None = None,
        regrow: bool = True,
        only: str | Iterable[str] | None = None,
        skip: str | Iterable[str] = (),
        seed: int = 0,
        unknown_state: str = "raise",
    ) -> None:
        if every < 1:
            raise InputError(f"every={every}: at least 1 step from one change to the next")
        self.init, self.every, self.regrow, self.constraint = init, every, regrow, constraint
        self.drop = Magnitude() if drop is None else drop
        self.grow = Random() if grow is None else grow
        self.fraction = fraction
        self._settings: dict[str, Any] = {"only": only, "skip": skip, "seed": seed, "unknown_state": unknown_state}

    def attach(self, model: nn.Module, optimizer: Optimizer = None, *, example_input: Any = None) -> Session:
        """Set the first masks and begin. Call `step()` of what it returns after each `optimizer.step()`."""
        session = Session(
            model, optimizer, [self.drop, self.grow], self._when, self.masks, example_input=example_input,
            **self._settings,
        )  # fmt: skip
        if self.init is not None:
            session.take(self._first(session.view()))
        session._watch()
        return session

    def _when(self, step: int) -> float | None:
        if self.fraction is None or step == 0 or step % self.every:
            return None
        return self.fraction(step)

    def _first(self, view: View) -> Tensors:
        if not hasattr(self.init, "select"):
            assert callable(self.init)
            return self.init(view)
        density = getattr(self.init, "density", None)
        if density is None:
            raise InputError(f"init={type(self.init).__name__}() needs a density of its own, as ERK(.01)")
        scope: Any = self.init
        whole = view.given({n: torch.ones_like(m) for n, m in view.masks.items()})
        scores = Random()(view)

        def choose(ranked: Tensors) -> Tensors:
            found: Tensors = scope.select(ranked, density)
            return found

        masks = choose(scores)
        return masks if self.constraint is None else self.constraint(masks, scores, choose, whole)

    def masks(self, view: View, fraction: float) -> Tensors:
        """The masks after one change; nothing is changed."""
        lose, gain = checked(self.drop(view), view), checked(self.grow(view), view)
        masks: Tensors = {}
        for name, mask in view.masks.items():
            masks[name] = moved(mask, lose[name], gain[name], fraction, self.regrow)
        if self.constraint is None:
            return masks
        whole = view.given({n: torch.ones_like(m) for n, m in view.masks.items()})
        budgets = {n: int(m.sum()) / max(m.numel(), 1) for n, m in masks.items()}
        # ahead of everything what the change wants, survivors before newcomers; then the best of the rest
        ranked = {n: _rank(gain[n]) + 1.0 * m + 1.0 * (m & view.masks[n]) for n, m in masks.items()}
        return self.constraint(masks, ranked, lambda scores: Layer().select(scores, budgets), whole)


def moved(mask: Tensor, lose: Tensor, gain: Tensor, fraction: float, regrow: bool = True) -> Tensor:
    """A mask after int(fraction * connections) of the lowest `lose` went and as many of the highest `gain` came."""
    old = mask.cpu().reshape(-1)
    count = int(old.sum())
    amount = min(int(fraction * count), count)
    worth = torch.where(old, lose.detach().to("cpu", torch.float64).reshape(-1), -torch.inf)
    stays = best(worth, count - amount)
    free = ~stays if regrow else ~old
    amount = min(count - int(stays.sum()), int(free.sum()))
    short = count - int(stays.sum()) - amount
    if short:  # a layer that is nearly full has no other places to grow at
        stays = best(worth, count - amount)
    wish = torch.where(free, gain.detach().to("cpu", torch.float64).reshape(-1), -torch.inf)
    return (stays | best(wish, amount)).reshape(mask.shape).to(mask.device)


def _rank(values: Tensor) -> Tensor:
    flat = values.detach().reshape(-1)
    rank = torch.empty(flat.numel(), dtype=torch.float64)
    rank[flat.cpu().argsort(stable=True)] = torch.arange(flat.numel(), dtype=torch.float64) / max(flat.numel(), 1)
    return rank.reshape(values.shape).to(values.device)


def static(density: float, **settings: Any) -> Rewire:
    """Random masks (ERK) that never move."""
    return Rewire(ERK(density), fraction=None, **settings)


def SET(density: float, *, fraction: float = 0.3, every: int = 100, **settings: Any) -> Rewire:
    """Sparse evolutionary training: smallest magnitudes go, random connections come (Mocanu et al. 2018)."""
    return Rewire(ERK(density), Magnitude(), Random(), constant(fraction), every, **settings)


def RigL(density: float, *, end: int, fraction: float = 0.3, every: int = 100, **settings: Any) -> Rewire:
    """Smallest magnitudes go, largest gradients come, ever fewer until step `end` (Evci et al. 2020)."""
    return Rewire(ERK(density), Magnitude(), Gradient(), cosine(fraction, end), every, **settings)
