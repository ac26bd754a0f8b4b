"""Null models: what a metric would be if the same number of weights sat at random places in every layer.

Most topology metrics follow the edge count. A value means something where it differs from that of networks
with the same numbers of weights in the same layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from deepstruct.errors import InputError
from deepstruct.metrics.base import MetricValue
from deepstruct.structure.reweigh import StoredWeight, stored_weights, with_stored_weights

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

FIXED = frozenset({
    "parameters", "weights", "nonzero_weights", "sparsity", "compression", "sources", "outputs",
})  # fmt: skip
"""Metrics that a null model has by construction, and that are not compared."""

Number = float | int
Measure = Callable[["StructureGraph", "list[str]"], "list[MetricValue]"]


def ground(graph: StructureGraph) -> StructureGraph:
    """The zeroth-order graph that a graph is a quotient of (or the graph itself), whose weights can be moved.

    Raises InputError where there is none: weights of a graph that was not read from a model are one per edge.
    """
    while graph.origin is not None:
        graph = graph.origin
    if graph.order != "zeroth" or graph.context is None:
        raise InputError(
            "null models move the stored weights of a model, and this graph was not read from one "
            "(deepstruct.extract): leave out null="
        )
    return graph


def null_models(graph: StructureGraph, samples: int, seed: int = 0) -> Iterator[StructureGraph]:
    """Graphs like this one whose stored weights are permuted within every weight tensor.

    Every tensor keeps its values, so the number of non-zeros and all magnitudes; they move to random positions
    among those that can be an edge (not to kernel taps that only ever meet padding). Tied weights stay tied.

    Args:
        graph: of zeroth order, read from a model.
        samples: how many; each costs a copy of the weights, one at a time.
        seed: of the random numbers; the k-th graph depends on the seed and k alone.
    """
    stored = stored_weights(graph)
    for k in range(samples):
        generator = torch.Generator().manual_seed((int(seed) * 1_000_003 + k) % (1 << 63))
        yield with_stored_weights(graph, _permuted(stored, generator))


def _permuted(
    stored: Mapping[Hashable, StoredWeight], generator: torch.Generator
) -> dict[Hashable, torch.Tensor]:
    out = {}
    for key, weight in stored.items():
        if bool(weight.possible.all()):
            out[key] = weight.values[torch.randperm(weight.values.numel(), generator=generator)]
            continue
        places = weight.possible.nonzero().view(-1)
        moved = weight.values.clone()
        moved[places] = weight.values[places[torch.randperm(places.numel(), generator=generator)]]
        out[key] = moved
    return out


def comparable(rows: Iterable[MetricValue]) -> dict[str, list[str]]:
    """Order -> names of the values that can be compared: numbers of graph scope that are not fixed."""
    names: dict[str, list[str]] = {}
    for row in rows:
        number = isinstance(row.value, (int, float)) and not isinstance(row.value, bool)
        if row.scope == "graph" and number and row.name not in FIXED:
            names.setdefault(row.order, []).append(row.name)
    return names


def against_null(
    rows: list[MetricValue],
    base: StructureGraph,
    build: Callable[[StructureGraph, str], StructureGraph],
    measure: Measure,
    *,
    samples: int,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[MetricValue]:
    """The rows, those of graph scope with mean, standard deviation and z-score over null models.

    Args:
        base: the zeroth-order graph that was measured, or that what was measured is a quotient of.
        build: makes the graph of an order from a zeroth-order one.
        measure: the values of the named metrics of a graph; those that are not defined may be missing.
        samples: number of null models; each costs what the metrics cost, once more.
    """
    wanted = comparable(rows)
    found: dict[tuple[str, str], list[Number]] = {(order, n): [] for order, names in wanted.items() for n in names}
    for k, graph in enumerate(null_models(base, samples, seed)):
        if progress is not None:
            progress(f"null model {k + 1} of {samples}", k, samples)
        for order, names in wanted.items():
            for row in measure(build(graph, order), names):
                if (order, row.name) in found and isinstance(row.value, (int, float)):
                    found[order, row.name].append(row.value)
    return [
        _scored(row, found[row.order, row.name], samples)
        if row.scope == "graph" and (row.order, row.name) in found
        else row
        for row in rows
    ]


def _scored(row: MetricValue, values: list[Number], samples: int) -> MetricValue:
    mean, std, z, why = score(row.value, values)
    if 0 < len(values) < samples:
        why = "; ".join(part for part in (why, f"defined in {len(values)} of {samples} null models") if part)
    note = "; ".join(part for part in (row.note, f"null: {why}" if why else "") if part)
    return dataclasses.replace(row, null_mean=mean, null_std=std, z=z, null_samples=len(values), note=note)


def score(value: Number, values: list[Number]) -> tuple[Number | None, Number | None, float, str]:
    """(mean, sample standard deviation, z, why z is NaN) of null values; whole numbers are reckoned exactly."""
    if not values:
        return None, None, math.nan, "not defined in any null model"
    if not all(math.isfinite(v) for v in (value, *values) if isinstance(v, float)):
        return None, None, math.nan, "a value is not finite"
    if len(values) == 1:
        return values[0], None, math.nan, "one value has no standard deviation"
    exact = [Fraction(v) for v in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    variance = sum(((v - mean) ** 2 for v in exact), Fraction(0)) / (len(exact) - 1)
    std = _root(variance)
    # floats that differ in their last digits alone are the same number
    rounding = 0 if all(isinstance(v, int) for v in values) else Fraction(1, 10**12) * abs(mean)
    if variance <= rounding**2:
        return _plain(mean), 0.0, math.nan, "the metric is the same in every null model"
    gap = Fraction(value) - mean
    size = float(_root(gap * gap / variance))
    return _plain(mean), std, -size if gap < 0 else size, ""


def _plain(number: Fraction) -> Number:
    """A float, or the nearest integer beyond the range of floats."""
    try:
        return float(number)
    except OverflowError:
        return round(number)


def _root(number: Fraction) -> Number:
    try:
        return math.sqrt(float(number))
    except OverflowError:
        return math.isqrt(int(number))
