"""The oracle for models of real size: derivatives of output elements lie inside what the graph connects."""

from __future__ import annotations

import pytest

from deepstruct.testing import check_vjp
from tests.zoo.architectures import ZOO, Architecture

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("kind", ZOO, ids=str)
def test_derivatives_are_contained(kind: Architecture):
    model, example = kind.make()
    probes = check_vjp(model, example, outputs=2)
    assert len(probes) == 2
    assert all(probe.depends_on > 0 for probe in probes), "no derivative at all: nothing was checked"
    # equality holds for generic weights and smooth activations; a lone coincidence may hide an edge
    assert any(probe.equal for probe in probes)


@pytest.mark.parametrize("kind", [a for a in ZOO if a.quotients], ids=str)
def test_derivatives_with_statistics_units(kind: Architecture):
    """With statistics units the graph follows norms as they are: nothing of their derivative is left out."""
    model, example = kind.make()
    probes = check_vjp(model, example, outputs=2, normalization="stats", seed=1)
    assert all(probe.depends_on > 0 for probe in probes)
