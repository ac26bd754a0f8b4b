"""Arguments that make no sense, and graphs that do not fit."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import deepstruct
from deepstruct.errors import CapacityError, InputError, MetricError, StructureError
from tests.bad_input.untouched import untouched

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.fixture
def x():
    return torch.randn(1, 4)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"orders": "fifth"}, InputError, ("'fifth'", "zeroth, first, second, third")),
        ({"orders": ("zeroth", "thrid")}, InputError, ("'thrid'",)),
        ({"orders": ()}, InputError, ("no order",)),
        ({"orders": 3}, InputError, ("int", "names of orders")),
        ({"orders": [None]}, InputError, ("None",)),
        ({"metrics": ["egdes"]}, MetricError, ("'egdes'", "did you mean", "edges")),
        ({"metrics": "egdes"}, MetricError, ("'egdes'", "edges")),
        ({"metrics": [3]}, MetricError, ("unknown metric 3",)),
        ({"metrics": 3}, MetricError, ("int", "names of metrics")),
        ({"analyzer": "igrpah"}, MetricError, ("'igrpah'", "igraph")),
        ({"analyzer": None}, MetricError, ("None", "auto")),
        ({"settings": [1]}, InputError, ("settings", "dict")),
        ({"prefer": None, "on_unknown": "ignore"}, InputError, ("on_unknown", "'ignore'", "dense")),
        ({"unit": "neuron"}, StructureError, ("'neuron'", "channel", "head")),
        ({"partition": ["a"]}, StructureError, ("partition", "list", "module paths")),
        ({"partition": {"zzz": "a"}}, StructureError, ("'zzz'", "no module")),
        ({"partition": lambda space: 1 / 0}, StructureError, ("ZeroDivisionError", "partition function")),
        ({"threshold": 0.1, "density": 0.5}, InputError, ("threshold", "density", "one of them")),
    ],
)
def test_what_there_is_not(options, kind, words, model, x, refused):
    if "partition" in options or "unit" in options:
        options = {"orders": ("first", "third"), **options}
    refused(kind, model, x, *words, **options)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("threshold", [-1, NAN, INF, "0.1", None, True], (">= 0",)),
        ("density", [0, -1, 1.5, NAN, "x", True, torch.tensor(0.5)], ("(0, 1]",)),
        ("normalization", ["layer", None, 1], ("one_to_one", "stats")),
        ("max_memory", [0, -1, NAN, "1GB", None, True], ("positive", "bytes")),
    ],
)
def test_values_out_of_range(name, values, words, model, x, refused):
    for value in values:
        refused(InputError, model, x, name, repr(value), *words, **{name: value})


@pytest.mark.parametrize("depth", [0, -2, 1.5, "2", None, True])
def test_depths_that_are_none(depth, model, x, refused):
    refused(StructureError, model, x, "depth", repr(depth), orders="third", depth=depth)


def test_extract_takes_one_order(model, x):
    for order in ("zero", "", None, ("zeroth", "first")):
        with pytest.raises(InputError, match="zeroth"):
            deepstruct.extract(model, x, order=order)


def test_memory_without_a_limit(model, x, analysed):
    assert analysed(model, x, orders="zeroth", max_memory=INF)["zeroth"]["butterflies"] > 0


def test_numbers_of_numpy(model, x):
    numpy = pytest.importorskip("numpy")
    cut = deepstruct.extract(model, x, threshold=numpy.float32(0.1))
    assert cut.num_edges == deepstruct.extract(model, x, threshold=float(numpy.float32(0.1))).num_edges


# -- graphs in place of models


def test_a_graph_is_analysed_as_it_is(model, x):
    graph = deepstruct.extract(model, x, order="first")
    report = deepstruct.analyze(graph, metrics=["nodes", "edges"])
    assert dict(report["first"]) == {"nodes": 9, "edges": 18}
    for options in ({"threshold": 0.1}, {"density": 0.5}, {"example_input": x}, {"example_kwargs": {"x": x}}):
        with pytest.raises(InputError, match="as it is"):
            deepstruct.analyze(graph, **options)
    with pytest.raises(InputError, match="StructureGraph"):
        deepstruct.extract(graph)


# -- graphs that do not fit


@pytest.mark.parametrize("export", ["to_networkx", "to_igraph", "to_scipy", "edge_list"])
def test_a_graph_that_does_not_fit(export):
    wide = nn.Sequential(nn.Linear(3000, 3000, device="meta"), nn.Linear(3000, 3000, device="meta"))
    graph = deepstruct.extract(wide, torch.zeros(1, 3000))
    assert graph.num_edges == 2 * 3000 * 3000
    with pytest.raises(CapacityError) as caught:
        getattr(graph, export)(max_memory=100 << 20)
    text = str(caught.value)
    assert "18,000,000 edges" in text
    assert "Sequential" in text
    assert "max_memory" in text
    need, limit = (float(number) for number in re.findall(r"([\d.e-]+) GiB", text))
    assert limit == pytest.approx(100 / 1024, rel=1e-2)
    assert 12 * graph.num_edges / 2**30 < need < 600 * graph.num_edges / 2**30
    assert isinstance(caught.value, MemoryError)


def test_the_estimate_is_enough(model, x):
    """What the message asks for is what makes the export pass."""
    graph = deepstruct.extract(model, x)
    for export in (graph.to_networkx, graph.to_igraph, graph.to_scipy, graph.edge_list):
        with pytest.raises(CapacityError) as caught:
            export(max_memory=1)
        need = float(re.findall(r"([\d.e-]+) GiB", str(caught.value))[0]) * 2**30
        export(max_memory=int(need * 1.01) + 1)


def test_metrics_that_do_not_fit_are_skipped_with_an_estimate(model, x):
    with untouched(model, x):
        report = deepstruct.analyze(model, x, metrics=["edges", "diameter"], orders="zeroth", max_memory=10)
    assert report["zeroth"]["edges"] == 18 if "edges" in report["zeroth"] else True
    (line,) = [s for s in report.skipped if s.name == "diameter"]
    assert line.estimate_bytes > 10
    assert "max_memory" in line.reason
