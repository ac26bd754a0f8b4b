"""The power law that fits the tail of continuous values best, by maximum likelihood."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

STEEPEST = 1000.0
"""Exponents above this are no power laws: the tail is a few values that are nearly equal."""


class PowerLaw(NamedTuple):
    """p(x) ~ x ** -exponent for x >= start; `distance` is Kolmogorov and Smirnov's, between the tail and the fit."""

    exponent: float
    start: float
    distance: float


def fit_power_law(values: np.ndarray) -> PowerLaw:
    """The tail of positive `values` (count,) whose own fit has the least distance.

    Every value but the two largest distinct ones may start the tail; its exponent is 1 + n / sum(log(x / start)). The
    empirical distribution at x counts what lies strictly below x. All NaN where fewer than three values differ.

    Source: Clauset, Shalizi & Newman 2009, equations 3.1 and 3.9; tails as in the package powerlaw (Alstott et al.
    2014), which does the same in seconds instead of milliseconds, and by default looks at exponents up to 3 only.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    starts, first = np.unique(ordered, return_index=True)
    logs = np.log(ordered)
    above = np.cumsum(logs[::-1])[::-1]
    best = PowerLaw(math.nan, math.nan, math.nan)
    for start, begin in zip(starts[:-2], first[:-2], strict=True):
        tail, count = ordered[begin:], len(ordered) - begin
        exponent = float(1 + count / (above[begin] - count * logs[begin]))
        if exponent > STEEPEST:
            continue
        gap = 1 - np.exp((1 - exponent) * (logs[begin:] - logs[begin])) - np.searchsorted(tail, tail) / count
        distance = float(np.abs(gap).max())
        if not best.distance <= distance:
            best = PowerLaw(exponent, float(start), distance)
    return best
