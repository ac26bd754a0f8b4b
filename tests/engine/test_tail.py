"""Tails of power laws against the package powerlaw, and on draws from known laws."""

from __future__ import annotations

import math
import warnings

import numpy as np
import powerlaw
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.engine.tail import STEEPEST, fit_power_law


def by_the_package(values: np.ndarray) -> tuple[float, float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = powerlaw.Fit(values.tolist(), verbose=False, parameter_ranges={"alpha": [1, STEEPEST]})
        return fit.power_law.alpha, fit.xmin, fit.power_law.D


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 90), st.sampled_from([0.4, 1.2, 2.0, 4.0, 8.0]), st.booleans())
def test_the_same_as_the_package(seed: int, count: int, exponent: float, ties: bool) -> None:
    values = np.random.default_rng(seed).pareto(exponent, count) + 1
    if ties:
        values = np.round(values, 2)
    if len(np.unique(values)) < 4:
        return
    assert fit_power_law(values) == pytest.approx(by_the_package(values), rel=1e-6)


def test_eigenvalues_of_a_random_matrix() -> None:
    values = torch.linalg.svdvals(torch.randn(120, 80, dtype=torch.float64)).square().numpy()
    found = fit_power_law(values)
    assert found == pytest.approx(by_the_package(values), rel=1e-6)
    assert found.exponent > 3  # where the range of the package ends unless it is told otherwise


@pytest.mark.parametrize("exponent", [1.5, 3.0, 6.0])
def test_draws_from_a_power_law(exponent: float) -> None:
    values = np.random.default_rng(5).pareto(exponent - 1, 4000) + 1
    assert fit_power_law(values).exponent == pytest.approx(exponent, rel=0.15)


def test_scale_does_not_matter() -> None:
    values = np.random.default_rng(1).pareto(2.0, 200) + 1
    one, other = fit_power_law(values), fit_power_law(values * 1e-9)
    assert other.exponent == pytest.approx(one.exponent)
    assert other.start == pytest.approx(one.start * 1e-9)


def test_no_tail() -> None:
    assert all(math.isnan(number) for number in fit_power_law(np.ones(20)))
    assert all(math.isnan(number) for number in fit_power_law(np.array([1.0, 2.0])))
    assert math.isnan(fit_power_law(np.array([1.0, 1.0 + 1e-9, 1.0 + 2e-9])).exponent)
