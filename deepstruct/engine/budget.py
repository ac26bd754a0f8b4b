"""Time budgets: long loops ask whether there is time left, and stop by themselves.

`limited(seconds)` opens a budget for what runs inside it, in this thread; loops call `check()` once a
round, and iterations that can hand back what they have ask `expired()` instead. Nothing is killed from
outside: a call that never asks runs to its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from deepstruct.errors import BudgetError


@dataclass(frozen=True)
class Deadline:
    """When a budget of so many seconds began, on the clock of `time.monotonic`."""

    seconds: float
    began: float

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def expired(self) -> bool:
        return self.spent >= self.seconds


_current: ContextVar[Deadline | None] = ContextVar("deepstruct_deadline", default=None)


@contextmanager
def limited(seconds: float | None) -> Iterator[Deadline | None]:
    """A budget for what runs inside; None sets no limit, and leaves one that is already there in force.

    A budget inside another one ends no later than the outer one.
    """
    outer = _current.get()
    if seconds is None:
        yield outer
        return
    deadline = Deadline(float(seconds), time.monotonic())
    if outer is not None and outer.began + outer.seconds < deadline.began + deadline.seconds:
        deadline = outer
    token = _current.set(deadline)
    try:
        yield deadline
    finally:
        _current.reset(token)


def expired() -> bool:
    """Whether the budget in force, if there is one, is used up."""
    deadline = _current.get()
    return deadline is not None and deadline.expired


def check() -> None:
    """Raise BudgetError, with the seconds spent, when the budget in force is used up."""
    deadline = _current.get()
    if deadline is not None and deadline.expired:
        raise BudgetError(
            f"stopped after {deadline.spent:.3g} s: more than the budget of {deadline.seconds:g} s (max_seconds)"
        )
