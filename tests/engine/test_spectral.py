"""Eigenvalues through operators against dense eigenvalues of the explicit graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.analyzers.operator import spectral
from deepstruct.analyzers.operator.view import OperatorAnalyzer
from deepstruct.engine.budget import limited
from deepstruct.engine.density import spectral_density
from deepstruct.engine.lanczos import extreme, quadrature
from deepstruct.errors import MetricError
from deepstruct.metrics.base import AnalysisContext
from tests.engine.spectra import dense, giant, measure, of_view, small_graphs


def test_whole_graph():
    for graph in small_graphs(range(8)):
        matrix = dense(graph)
        matrix = matrix + matrix.T
        degree = matrix.sum(1)
        view = OperatorAnalyzer().prepare(graph, AnalysisContext())
        found = {m.name: of_view(view, spectral, m.name) for m in spectral.METRICS if "moment" not in m.name}
        assert all(value.converged for value in found.values()), found
        member = giant(matrix)
        inner, d = matrix[np.ix_(member, member)], degree[member]
        laplace = np.linalg.eigvalsh(np.diag(d) - inner)
        normal = np.linalg.eigvalsh(np.eye(len(member)) - inner / np.sqrt(np.outer(d, d)))
        expected = {
            "spectral_radius": np.linalg.eigvalsh(matrix)[-1],
            "laplacian_spectral_radius": np.linalg.eigvalsh(np.diag(degree) - matrix)[-1],
            "algebraic_connectivity": laplace[1],
            "normalized_algebraic_connectivity": normal[1],
            "cheeger_lower": normal[1] / 2,
            "cheeger_upper": np.sqrt(2 * normal[1]),
        }
        for name, value in expected.items():
            assert found[name].value == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert f"of {len(member)} nodes" in found["algebraic_connectivity"].note


@pytest.mark.parametrize("order", ["first", "second", "third"])
def test_higher_orders(order):
    for graph in small_graphs(range(20)):
        above = graph.quotient(order)
        matrix = dense(above)
        expected = np.linalg.eigvalsh(matrix + matrix.T)[-1]
        assert measure(above, spectral, "spectral_radius").value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("power", [4, 6])
def test_moments_lie_within_their_error(power):
    off = []
    for graph in small_graphs(range(14), 150):
        matrix = dense(graph)
        values = np.linalg.eigvalsh(matrix + matrix.T)
        found = measure(graph, spectral, f"spectral_moment_{power}", probes=40)
        off.append((found.value - (values**power).mean()) / max(found.residual, 1e-9 * found.value))
    assert np.mean(np.abs(off) < 2.5) > 0.85
    assert np.abs(off).max() < 6


def test_moment_of_every_basis_vector_is_exact():
    """Quadratures of all unit vectors together give the trace."""
    torch.manual_seed(1)
    matrix = torch.randn(12, 12, dtype=torch.float64)
    matrix = matrix + matrix.T
    total = 0.0
    for k in range(12):
        x, w = quadrature(lambda v: matrix @ v, torch.eye(12, dtype=torch.float64)[k], steps=4)
        total += float(w @ x**6)
    assert total == pytest.approx(float(torch.linalg.eigvalsh(matrix).pow(6).sum()), rel=1e-9)


def test_density_integrates_to_one_and_finds_the_bulk():
    torch.manual_seed(2)
    n = 400
    matrix = torch.randn(n, n, dtype=torch.float64)
    matrix = (matrix + matrix.T) / (2 * n) ** 0.5  # Wigner: semicircle on [-2, 2]
    found = spectral_density(lambda v: matrix @ v, torch.ones(n, dtype=torch.bool), probes=10, steps=60)
    grid, density = found.on_grid(401)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    inside = np.abs(grid) < 1.5
    semicircle = np.sqrt(4 - grid[inside] ** 2) / (2 * np.pi)
    assert np.abs(density[inside] - semicircle).mean() < 0.03
    mean, error = found.mean(lambda x: x**2)
    assert abs(mean - float(torch.linalg.eigvalsh(matrix).square().mean())) < 5 * error + 1e-9


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_lanczos_with_and_without_its_basis(keep, end, monkeypatch):
    import deepstruct.engine.lanczos as module

    if not keep:
        monkeypatch.setattr(module, "KEEP_BYTES", 0)
    matrix = torch.randn(60, 60, dtype=torch.float64)
    matrix = matrix @ matrix.T + torch.diag(torch.arange(60.0, dtype=torch.float64))
    values, vectors = torch.linalg.eigh(matrix)
    at = -1 if end == "largest" else 0
    found = extreme(lambda v: matrix @ v, torch.randn(60, dtype=torch.float64), end=end, vector=True)
    assert found.converged
    assert found.value == pytest.approx(float(values[at]), rel=1e-8)
    assert abs(float(found.vector @ vectors[:, at])) == pytest.approx(1, abs=1e-6)
    residual = float((matrix @ found.vector - found.value * found.vector).norm())
    assert residual <= 1e-6 * float(values[-1])
    again = extreme(
        lambda v: matrix @ v, torch.randn(60, dtype=torch.float64), end=end, deflate=[vectors[:, at].contiguous()]
    )
    assert again.value == pytest.approx(float(values[-2 if end == "largest" else 1]), rel=1e-8)


@pytest.mark.parametrize("end", ["largest", "smallest"])
@pytest.mark.parametrize("seed", range(8))
def test_the_gap_bounds_the_error_of_a_value(seed, end):
    """Fewer steps than the residual asks for, and no further from the eigenvalue than is told."""
    generator = torch.Generator().manual_seed(seed)
    matrix = (torch.rand(400, 400, generator=generator, dtype=torch.float64) < 0.05).double().triu(1)
    matrix = matrix + matrix.T
    start = torch.rand(400, generator=generator, dtype=torch.float64)
    value = float(torch.linalg.eigvalsh(matrix)[-1 if end == "largest" else 0])
    found, slow = (
        extreme(lambda v: matrix @ v, start, end=end, tolerance=1e-7, by_gap=by_gap) for by_gap in (True, False)
    )
    assert found.converged
    assert found.steps < slow.steps
    assert abs(found.value - value) <= found.residual <= 1e-7 * 30
    assert found.value == pytest.approx(value, rel=1e-7)


def test_an_iteration_that_stops_early_says_so():
    graph = deepstruct.extract(nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5)), torch.randn(1, 30))
    found = measure(graph, spectral, "algebraic_connectivity", max_iterations=2)
    assert found.converged is False
    assert found.residual > 0
    value = measure(graph, spectral, "algebraic_connectivity")
    assert value.converged
    exact = dense(graph)
    exact = exact + exact.T
    nearest = np.abs(np.linalg.eigvalsh(np.diag(exact.sum(1)) - exact) - found.value).min()
    assert nearest <= found.residual * (1 + 1e-9)


def test_a_spent_budget_gives_back_what_there_is():
    matrix = torch.randn(50, 50, dtype=torch.float64)
    matrix = matrix + matrix.T
    with limited(0):
        found = extreme(lambda v: matrix @ v, torch.randn(50, dtype=torch.float64), steps=50)
    assert found.converged is False
    assert found.steps == 1


def test_refusals():
    graph = deepstruct.extract(nn.Linear(3, 2), torch.randn(1, 3))
    with pytest.raises(MetricError, match="max_iterations"):
        measure(graph, spectral, "spectral_radius", max_iterations=0)
    with pytest.raises(MetricError, match="tolerance"):
        measure(graph, spectral, "spectral_radius", tolerance=2)
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.zero_()
    empty = deepstruct.extract(layer, torch.randn(1, 3))
    assert measure(empty, spectral, "spectral_radius").value == 0
    with pytest.raises(MetricError, match="no edges"):
        measure(empty, spectral, "algebraic_connectivity")
