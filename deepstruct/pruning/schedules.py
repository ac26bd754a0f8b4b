"""Schedules: step -> density or fraction, None where nothing is to happen. Step 0 is `attach`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from deepstruct.errors import InputError


@dataclass(frozen=True)
class Steps:
    """A curve between two values over steps `begin` to `end`, taken at begin, begin + every, ... and at the end.

    Attributes:
        curve: share of the way that is gone (0 to 1) -> share of the change that is still to come (1 to 0).
    """

    start: float
    final: float
    begin: int
    end: int
    every: int
    curve: Callable[[float], float]

    def __post_init__(self) -> None:
        for what, value in (("the first value", self.start), ("the final value", self.final)):
            if not 0 <= value <= 1:
                raise InputError(f"{what} of a schedule is {value}: write a share from 0 to 1")
        if self.every < 1 or self.end < self.begin or self.begin < 0:
            raise InputError(
                f"a schedule from step {self.begin} to {self.end} every {self.every}: steps count from 0, the end is "
                "not before the beginning, and every is at least 1"
            )

    def __call__(self, step: int) -> float | None:
        """The value at a step; None before, after and in between."""
        if not self.begin <= step <= self.end:
            return None
        if step != self.end and (step - self.begin) % self.every:
            return None
        return self.value(step)

    def value(self, step: int) -> float:
        """The value of the curve at any step, whether it fires there or not."""
        way = 1.0 if self.end == self.begin else (min(max(step, self.begin), self.end) - self.begin) / (
            self.end - self.begin
        )  # fmt: skip
        return self.final + (self.start - self.final) * self.curve(way)


def one_shot(density: float, at: int = 0) -> Steps:
    """All at once."""
    return Steps(density, density, at, at, 1, lambda way: 0.0)


def cubic(density: float, begin: int, end: int, every: int = 1, initial: float = 1.0) -> Steps:
    """density + (initial - density) (1 - t)^3 (Zhu and Gupta 2018)."""
    return Steps(initial, density, begin, end, every, lambda way: (1 - way) ** 3)


def cosine(start: float, end: int, every: int = 1, *, begin: int = 0, final: float = 0.0) -> Steps:
    """final + (start - final) (1 + cos(pi t)) / 2: RigL's fraction of connections to move, or a density."""
    return Steps(start, final, begin, int(end), every, lambda way: (1 + math.cos(math.pi * way)) / 2)


def iterative(density: float, rounds: int, every: int = 1, *, begin: int = 0) -> Callable[[int], float | None]:
    """`rounds` steps that each keep the same share of what is left: density^(k / rounds) after the k-th."""
    if rounds < 1 or every < 1 or not 0 < density <= 1:
        raise InputError(f"iterative({density}, rounds={rounds}, every={every}): a density in (0, 1], and at least 1")

    def schedule(step: int) -> float | None:
        k, rest = divmod(step - begin, every)
        return density ** ((k + 1) / rounds) if rest == 0 and 0 <= k < rounds else None

    return schedule


def constant(value: float, every: int = 1, *, begin: int = 0, end: int | None = None) -> Callable[[int], float | None]:
    """The same value every so many steps: SET's fraction."""
    if not 0 <= value <= 1 or every < 1:
        raise InputError(f"constant({value}, every={every}): a share from 0 to 1, and at least 1")

    def schedule(step: int) -> float | None:
        late = end is not None and step > end
        return None if step < begin or late or (step - begin) % every else value

    return schedule
