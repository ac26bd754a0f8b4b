"""Spectral densities against the spectral measures of the probes, from dense eigenvectors, and their error bars."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deepstruct.analyzers.operator import density
from deepstruct.engine.adjacency import has_vector_entry
from deepstruct.errors import MetricError
from tests.brute.explicit import Explicit
from tests.engine.spectra import measure

NAMES = ("spectral_density", "normalized_laplacian_density")


def small(count: int) -> list[Explicit]:
    nets = [Explicit(seed) for seed in range(60)]
    return [e for e in nets if e.n <= 60 and e.m][:count]


def matrix(e: Explicit, name: str) -> np.ndarray:
    if name == "spectral_density":
        return e.both
    d = e.both.sum(1)
    root = np.where(d > 0, 1 / np.sqrt(np.maximum(d, 1)), 0)
    return np.diag((d > 0).astype(float)) - root[:, None] * e.both * root


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_measures_of_the_probes(name: str) -> None:
    """As many Lanczos steps as nodes: quadrature is exact, and the share of a bin is that of dense eigenvectors."""
    nets = small(4)
    assert len(nets) == 4
    for e in nets:
        found = measure(e.graph, density, name, probes=3)
        value = json.loads(found.value)
        values, vectors = np.linalg.eigh(matrix(e, name))
        generator = torch.Generator().manual_seed(0)
        node = has_vector_entry(e.graph)
        shares = []
        for _ in range(3):
            signs = torch.randint(0, 2, (e.graph.num_slots,), generator=generator, dtype=torch.float64) * 2 - 1
            weight = (vectors.T @ signs[node].numpy()) ** 2 / e.n
            # eigenvalues that rounding puts on a bound of a bin are moved into the one that Lanczos found
            shares.append(np.histogram(np.clip(values, *value["bounds"][:: len(value["bounds"]) - 1]),
                                       value["bounds"], weights=weight)[0])  # fmt: skip
        np.testing.assert_allclose(value["share"], np.mean(shares, 0), atol=1e-8)
        np.testing.assert_allclose(value["error"], np.std(shares, 0, ddof=1) / 3**0.5, atol=1e-8)
        assert found.residual == pytest.approx(max(value["error"]))
        assert sum(value["share"]) == pytest.approx(1)
        assert not found.exact


@pytest.mark.parametrize("name", NAMES)
def test_error_bars_hold(name: str) -> None:
    """The eigenvalues of the whole matrix lie within five standard errors of 200 probes, bin by bin."""
    (e,) = small(1)
    value = json.loads(measure(e.graph, density, name, probes=200, density_bins=7).value)
    values = np.clip(np.linalg.eigvalsh(matrix(e, name)), value["bounds"][0], value["bounds"][-1])
    expected = np.histogram(values, value["bounds"])[0] / e.n
    assert np.all(abs(np.array(value["share"]) - expected) <= 5 * np.array(value["error"]) + 1e-9)
    assert max(value["error"]) < 0.05


def test_settings() -> None:
    (e,) = small(1)
    one = measure(e.graph, density, "spectral_density", probes=1, density_bins=3)
    assert one.residual is None
    assert json.loads(one.value)["error"] is None
    assert len(json.loads(one.value)["share"]) == 3
    with pytest.raises(MetricError, match="density_bins"):
        measure(e.graph, density, "spectral_density", density_bins=0)
