"""What weights bring to units on data: sums of weight x activation, averaged over a batch.

The layers are run as the model runs them, from the recorded operations, sample by sample and without their biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deepstruct.engine import budget
from deepstruct.errors import MetricError
from deepstruct.structure import vectors
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import Identity
from deepstruct.structure.space import Space
from deepstruct.trace.interpret import execute, refs_of, substitute
from deepstruct.trace.opgraph import Op

# where the bias is among the arguments of a contraction; None: there is none
_BIAS: dict[str, int | None] = {
    "convolution": 2, "linear": 2, "addmm": 0, "addmv": 0, "baddbmm": 0, "mm": None, "mv": None, "bmm": None,
    "matmul": None, "einsum": None, "dot": None,
}  # fmt: skip


def incoming_signal(graph: StructureGraph, batch: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, int, list[str]]:
    """(float64 per slot: mean over the batch of the sum of w x over the weight edges into the unit, samples, left out).

    A sum has what its parts have. Units without weight edges have 0; those of layers whose operation is not one of the
    plain contractions (recurrent layers) have NaN, and the names of these layers are told.

    Args:
        batch: one tensor for each input of the model, samples along the first axis; None: the example input that the
            model was traced with. Its length must be a multiple of the samples that the trace has.

    Raises MetricError where the graph was not made from a model, the batch does not fit it, weights have no values, or
    weights were cut by a threshold or a density (the model still multiplies with those).
    """
    trace = getattr(graph.context, "trace", None)
    if trace is None:
        raise MetricError("the graph was not made from a model here: there is nothing to run on data")
    if any(op.weighted and getattr(op, "threshold", 0.0) > 0 for op in graph.operators):
        raise MetricError("the graph was made with threshold= or density=: cut the weights in the model instead")
    chosen, left = _contractions(graph)
    total = vectors.full(graph.num_slots, torch.float64)
    samples = 0
    wanted = sorted({value for op, _ in chosen for value in refs_of([op.args, op.kwargs])})
    for feeds in _feeds(trace, batch):
        budget.check()
        with torch.no_grad():
            values = trace.interpret(wanted, feeds, trace.byte_budget)
            for op, space in chosen:
                args = list(substitute(op.args, values.__getitem__))
                place = _BIAS[op.name]
                if place is not None and len(args) > place and isinstance(args[place], torch.Tensor):
                    args[place] = torch.zeros_like(args[place])
                out = execute(op, args, substitute(op.kwargs, values.__getitem__))[0]
                assert out is not None
                total[space.slots] += out.reshape(-1).to(torch.float64)
        samples += 1
    total /= max(samples, 1)
    for space in left:
        total[space.slots] = torch.nan
    for edge in graph.operators:  # a sum takes over what its parts are given
        if isinstance(edge, Identity) and edge.fused is not False:
            passed = edge.source.gather(total)
            edge.target.accumulate(total, passed.clone() if edge.fused is True else torch.where(edge.fused, passed, 0))
    return total, samples, [space.name for space in left]


def _contractions(graph: StructureGraph) -> tuple[list[tuple[Op, Space]], list[Space]]:
    """The recorded operation of every space that weights are multiplied into, and the spaces that have no plain one."""
    trace, offsets = graph.context.trace, [space.offset for space in graph.spaces]
    edges = torch.tensor([op.target.first_slot for op in graph.operators if op.weighted], dtype=torch.int64)
    places = torch.searchsorted(torch.tensor(offsets), edges, right=True) - 1
    chosen, left = [], []
    for k in sorted(set(places.tolist())):
        space = graph.spaces[k]
        op = trace.ops[space.position] if space.position < len(trace.ops) else None
        first = op.outputs[0] if op is not None and op.outputs else None
        fits = first is not None and trace.values[first].shape == tuple(space.shape)
        if op is not None and op.name in _BIAS and fits:
            chosen.append((op, space))
        else:
            left.append(space)
    return chosen, left


def _feeds(trace: Any, batch: Sequence[torch.Tensor] | None) -> list[dict[int, torch.Tensor]]:
    """What to feed for each run: slices of the batch of the recorded length."""
    weights = [trace.values[v] for v in trace.parameters.values()]
    if any(value.data is None or value.data.is_meta for value in weights):
        raise MetricError("the model's weights have no values: load weights into it first")
    if batch is None:
        return [{}]
    inputs = [trace.values[v] for v in trace.inputs]
    if len(batch) != len(inputs):
        raise MetricError(f"the batch holds {len(batch)} tensors, and the model takes {len(inputs)}")
    runs: list[dict[int, torch.Tensor]] = []
    for value, tensor in zip(inputs, batch, strict=True):
        step = value.shape[0] if value.shape else 1
        if tuple(tensor.shape[1:]) != tuple(value.shape[1:]) or not step or tensor.shape[0] % step or not len(tensor):
            raise MetricError(
                f"the batch has shape {tuple(tensor.shape)} for input {value.name!r}; the model was traced with "
                f"{tuple(value.shape)}: pass samples of that shape along the first axis"
            )
        parts = tensor.detach().to(value.dtype).split(step)
        runs = runs or [{} for _ in parts]
        if len(parts) != len(runs):
            raise MetricError("the tensors of the batch differ in their number of samples")
        for run, part in zip(runs, parts, strict=True):
            run[value.id] = part
    return runs
