"""Descendants and ancestors, receptive fields, and which outputs depend on which inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from deepstruct.analyzers.operator.memo import need_units, once
from deepstruct.analyzers.operator.sampling import SAMPLES, Sample, sample
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import BOOLEAN, fixpoint, sweep
from deepstruct.engine.reach import reaches
from deepstruct.engine.semirings_words import popcount, present
from deepstruct.errors import CapacityError, MetricError
from deepstruct.metrics import reachability
from deepstruct.metrics.base import Measured, Metric

_SHARED = {m.name: m for m in reachability.METRICS}
_ALL_INPUTS = 1024  # inputs that are followed through the whole network one by one (16 sweeps of 64)


def _shared(name: str, compute: Callable[[OperatorView], Any], **options: Any) -> Metric:
    other = _SHARED[name]
    return Metric(
        name, "operator", compute, scope=other.scope, definition=other.definition, source=other.source,
        default=other.default, **options,
    )  # fmt: skip


# -- a set of nodes


def _slots_of(view: OperatorView, nodes: Iterable[int]) -> torch.Tensor:
    ids = view.graph.node_ids()
    wanted = torch.tensor(sorted(set(nodes)), dtype=torch.int64)
    where = (ids >= 0).nonzero().reshape(-1)
    place = torch.searchsorted(ids[where], wanted)
    known = place < where.numel()
    known[known.clone()] = ids[where[place[known]]] == wanted[known]
    if not bool(known.all()):
        missing = wanted[~known][:5].tolist()
        raise MetricError(f"the setting 'nodes' names nodes that the graph does not have as units: {missing}")
    return where[place]


def _beyond(transpose: bool) -> Callable[[OperatorView], int]:
    """Nodes that the set leads to (or that lead to it), the set itself left out."""

    def compute(view: OperatorView) -> int:
        graph = view.graph
        given = view.context.settings.get("nodes")
        start = torch.zeros(graph.num_slots)
        if given is None:
            start[(graph.is_output if transpose else graph.is_source) & graph.is_node] = 1
        else:
            start[_slots_of(view, [int(node) for node in given])] = 1
        if graph.is_dag:
            found = sweep(graph, start, BOOLEAN, transpose=transpose) > 0
        else:
            found = fixpoint(graph, start, directions=(transpose,)) > 0
        return round(view.total(found)) - int(start.sum())

    return compute


# -- receptive fields


def _fields(view: OperatorView) -> torch.Tensor:
    """int64 per slot: the number of inputs that the unit depends on (an input on itself)."""
    graph = view.graph
    need_units(view, "receptive_field")
    seeds = graph.is_source.nonzero().reshape(-1)
    if seeds.numel() > _ALL_INPUTS:
        raise CapacityError(
            f"the {seeds.numel()} inputs are more than the {_ALL_INPUTS} that are followed one by one; "
            "layer_receptive_field_mean samples units instead"
        )

    def compute() -> torch.Tensor:
        total = torch.zeros(graph.num_slots, dtype=torch.int64)
        for _, words in reaches(graph, seeds):
            total += popcount(words)
        return total

    return once(view, "receptive fields", compute)


def _layer_fields(view: OperatorView) -> tuple[dict[str, np.ndarray], bool]:
    """Per layer the receptive fields of all its units, or of some, and whether it is all."""
    graph = view.graph
    need_units(view, "layer_receptive_field")
    if int(graph.is_source.sum()) <= _ALL_INPUTS:
        values = _fields(view)
        return {s.name: values[s.slots][graph.is_node[s.slots]].numpy() for s in graph.spaces}, True

    def compute() -> tuple[dict[str, np.ndarray], bool]:
        found, complete = {}, True
        for space in graph.spaces:
            here = torch.zeros(graph.num_slots, dtype=torch.bool)
            here[space.slots] = graph.is_node[space.slots]
            if not bool(here.any()):
                continue
            chosen = sample(view, here, salt=space.index)
            complete &= chosen.complete
            sizes: list[int] = []
            for part, words in reaches(graph, chosen.slots, transpose=True):
                sources = words[graph.is_source]
                bits = set(present(sources))
                sizes += [int(((sources >> k) & 1).sum()) if k in bits else 0 for k in range(part.numel())]
            found[space.name] = np.array(sizes)
        return found, complete

    return once(view, "layer fields", compute)


def _layer_field(read: Callable[[np.ndarray], float]) -> Callable[[OperatorView], Measured]:
    def compute(view: OperatorView) -> Measured:
        found, complete = _layer_fields(view)
        wanted = int(view.context.settings.get("samples", SAMPLES))
        note = "" if complete else f"{wanted} units of every layer sampled (all of smaller ones)"
        return Measured({name: read(v) for name, v in found.items() if len(v)}, exact=complete, note=note)

    return compute


# -- inputs and outputs


def _joined(view: OperatorView) -> Measured:
    """Searches from the smaller of the two sides, or from a sample of it."""
    graph = view.graph
    inputs, outputs = graph.is_source & graph.is_node, graph.is_output & graph.is_node
    if not bool(inputs.any()) or not bool(outputs.any()):
        raise MetricError("the graph has no inputs or no outputs")
    against = int(outputs.sum()) < int(inputs.sum())
    chosen: Sample = sample(view, outputs if against else inputs)
    other = inputs if against else outputs
    shares: list[float] = []
    for part, words in reaches(graph, chosen.slots, transpose=against):
        ends = words[other]
        bits = set(present(ends))
        shares += [float(((ends >> k) & 1).double().mean()) if k in bits else 0.0 for k in range(part.numel())]
    value = float(np.mean(shares))
    if chosen.complete:
        return Measured(value)
    side = "outputs" if against else "inputs"
    error = chosen.error_of_mean(np.array(shares))
    note = f"{chosen.size} of {chosen.population} {side} sampled; standard error {error:.3g}"
    return Measured(value, exact=False, note=note)


_FIELD = "number of input units that a unit depends on (an input unit on itself)"

METRICS: list[Metric] = [
    _shared("descendants", _beyond(transpose=False)),
    _shared("ancestors", _beyond(transpose=True)),
    _shared("input_output_reach", _joined),
    Metric(
        "receptive_field", "operator", lambda v: v.nodes(_fields(v)), scope="node", default=False, requires=("dag",),
        definition=f"Receptive field: {_FIELD}; for graphs of at most {_ALL_INPUTS} inputs.",
    ),
    Metric(
        "layer_receptive_field_mean", "operator", _layer_field(lambda v: float(v.mean())), scope="layer", default=False,
        requires=("dag",),
        definition=f"Mean receptive field of the layer's units: {_FIELD}. Of all units where the graph has at most "
        f"{_ALL_INPUTS} inputs, else of some (setting 'samples', 64).",
    ),
    Metric(
        "layer_receptive_field_max", "operator", _layer_field(lambda v: int(v.max())), scope="layer", default=False,
        requires=("dag",),
        definition=f"Largest receptive field of a unit of the layer: {_FIELD}. Of all units where the graph has at "
        f"most {_ALL_INPUTS} inputs, else of some (setting 'samples', 64), and then a lower bound.",
    ),
]
