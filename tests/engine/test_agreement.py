"""Where several analyzers offer a metric they agree, on a hundred generated nets at every order.

tests/brute compares the operator analyzer with brute force on more of them.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

import deepstruct
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics.base import AnalysisContext
from deepstruct.plugin.current import get_host
from tests.random_nets import random_net

SEEDS = range(120)
FEW = {"removal_repeats": 1, "removal_fractions": (0.3,)}  # attack curves would take most of the time
INEXACT = {"communities", "modularity"}  # two heuristics that may find different partitions


def _measure(graph, analyzer, context):
    """Every metric of one analyzer at this order: a value, or the text of its refusal."""
    registry = get_host().registry()
    tool = next(a for a in registry.analyzers if a.name == analyzer)
    view = tool.prepare(graph, context)
    out = {}
    offers = Counter(metric.name for metric in registry.metrics)
    for metric in registry.metrics:
        if offers[metric.name] < 2:
            continue  # nothing to compare with
        if metric.analyzer != analyzer or graph.order not in metric.orders or metric.scope == "layer":
            continue
        if "dag" in metric.requires and not graph.is_dag:
            continue
        try:
            value = metric.compute(view)
        except CapacityError:
            continue  # this analyzer leaves it to another
        except MetricError:
            value = "refused"
        out[metric.name] = getattr(value, "value", value)
    return out


def _same(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return a == b if isinstance(a, str) and isinstance(b, str) else False
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("chunk", range(6))
def test_analyzers_agree(chunk):
    compared = 0
    for seed in list(SEEDS)[chunk::6]:
        model, x = random_net(seed, (4, 4, 5))
        zeroth = deepstruct.extract(model, x)
        order = ("zeroth", "first", "second", "third")[seed % 4]
        graph = zeroth if order == "zeroth" else zeroth.quotient(order)
        if graph.num_edges > 1000:
            continue
        context = AnalysisContext(settings=FEW)
        by = {name: _measure(graph, name, context) for name in ("operator", "igraph", "networkx")}
        for first, second in (("operator", "igraph"), ("igraph", "networkx")):
            for name in by[first].keys() & by[second].keys() - INEXACT:
                a, b = by[first][name], by[second][name]
                assert _same(a, b), (seed, order, name, first, a, second, b)
                compared += 1
    assert compared > 200


def test_exact_path_count_needs_many_primes():
    """An integer far beyond float64, against plain Python integers."""
    import torch
    from torch import nn

    from deepstruct.engine.passes import log2_path_count, path_count

    layers = []
    widths = [3, *([97] * 40), 2]
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    expected = math.prod(widths)
    graph = deepstruct.extract(model, torch.randn(1, 3))
    assert path_count(graph) == expected
    assert math.isclose(log2_path_count(graph), math.log2(expected), rel_tol=1e-12)


def test_log_is_not_drowned_by_paths_that_lead_nowhere():
    """Millions of paths end in a dead branch; the few that reach the output decide the integer."""
    import torch
    from torch import nn

    from deepstruct.engine.passes import path_count

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Sequential(*[nn.Linear(60, 60, bias=False) for _ in range(130)])
            self.end = nn.Linear(60, 1, bias=False)
            self.thin = nn.Linear(60, 1, bias=False)

        def forward(self, x):
            return self.end(self.wide(x)) + self.thin(x)

    model = Net()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
        model.end.weight.zero_()
    assert path_count(deepstruct.extract(model, torch.randn(1, 60))) == 60
