"""A plan at work on a model: steps counted, masks changed when it is time, and a record of what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.pruning.alive import Alive, alive
from deepstruct.pruning.finding import find_targets
from deepstruct.pruning.network import Network
from deepstruct.pruning.optimizers import as_list
from deepstruct.pruning.protocols import Score, Tensors
from deepstruct.pruning.targets import Target
from deepstruct.pruning.view import View


@dataclass(frozen=True)
class Event:
    """One change of masks.

    Attributes:
        step: when.
        asked: the density (or fraction) of the schedule.
        kept: name -> weights that exist now.
        dropped, grown: how many connections went and came.
    """

    step: int
    asked: float | None
    kept: Mapping[str, int]
    dropped: int
    grown: int


class Session:
    """Counts steps and changes masks; made by `Plan.attach` and `Rewire.attach`, usable in a `with` statement.

    Attributes:
        step_count: steps so far; attaching is step 0.
        history: the changes so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None,
        scores: Iterable[Score],
        when: Callable[[int], float | None],
        change: Callable[[View, float], Tensors],
        *,
        only: str | Iterable[str] | None = None,
        skip: str | Iterable[str] = (),
        example_input: Any = None,
        seed: int = 0,
        unknown_state: str = "raise",
    ) -> None:
        self.model, self.optimizers = model, as_list(optimizer)
        self.targets: dict[str, Target] = find_targets(model, only, skip)
        self._scores, self._when, self._change = list(scores), when, change
        self._example, self._unknown = example_input, unknown_state
        self._generator = torch.Generator().manual_seed(seed)
        self._known: list[Network] = []
        self.step_count, self.history, self._open = 0, list[Event](), True
        for target in self.targets.values():
            target.check(self.optimizers, unknown_state)

    def view(self) -> View:
        """The model as scores see it now."""
        return View(
            self.model, self.targets, example_input=self._example, generator=self._generator, known=self._known,
            step=self.step_count,
        )  # fmt: skip

    def step(self) -> bool:
        """To be called after each `optimizer.step()`, before gradients are cleared; whether masks changed."""
        if not self._open:
            raise InputError("this session is closed: attach the plan again")
        self.step_count += 1
        for score in self._scores:
            if hasattr(score, "observe"):
                score.observe(self.view())
        return self._fire()

    def _fire(self) -> bool:
        asked = self._when(self.step_count)
        changed = False
        if asked is not None:
            changed = self.take(self._change(self.view(), asked), asked)
        self._watch()
        return changed

    def take(self, masks: Tensors, asked: float | None = None) -> bool:
        """Commit masks and record the change; whether there was one. Nothing changes where a check fails."""
        old = {name: target.mask() for name, target in self.targets.items()}
        new = {n: m for n, m in masks.items() if not torch.equal(m, old[n])}
        for name in new:
            self.targets[name].check(self.optimizers, self._unknown)
        for name, mask in new.items():
            self.targets[name].commit(mask, self.optimizers, self._unknown)
        if new:
            dropped = sum(int((old[n] & ~m).sum()) for n, m in new.items())
            grown = sum(int((m & ~old[n]).sum()) for n, m in new.items())
            kept = {n: int(masks.get(n, mask).sum()) for n, mask in old.items()}
            self.history.append(Event(self.step_count, asked, kept, dropped, grown))
        return bool(new)

    def _watch(self) -> None:
        """Watch gradients of the next backward passes where they will be needed."""
        kinds = {getattr(score, "watches", "never") for score in self._scores}
        on = "always" in kinds or ("firing" in kinds and self._when(self.step_count + 1) is not None)
        for target in self.targets.values():
            target.watch(on and self._open)

    @property
    def density(self) -> float:
        """The share of weights that exist now."""
        masks = [target.mask() for target in self.targets.values()]
        return sum(int(m.sum()) for m in masks) / max(sum(m.numel() for m in masks), 1)

    def alive(self) -> Alive:
        """What the masks have cut off, by paths."""
        return alive(self.view())

    def close(self) -> None:
        """Stop watching; masks stay."""
        self._open = False
        self._watch()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
