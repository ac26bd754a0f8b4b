"""One sample of an example batch: the batch axis is no part of the graph.

Axis 0 is the batch axis when all inputs share its length and the structure says that nothing mixes along
it: what the first sample reaches and what the second reaches have no unit in common. Where the samples of
axis 0 do mix (a sequence that comes first), axis 1 is asked the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from deepstruct.engine import BOOLEAN, sweep
from deepstruct.errors import DeepstructError
from deepstruct.structure.graph import StructureGraph
from deepstruct.trace.inputs import Arguments
from deepstruct.trace.tree import map_tensors

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph

BuildGraph = Callable[["OpGraph"], StructureGraph]


def one_sample(
    arguments: Arguments, trace: Callable[[Arguments], OpGraph], build: BuildGraph
) -> tuple[Arguments, str | None]:
    """The arguments cut down to the first sample, and a note about it; unchanged where no axis is a batch.

    Args:
        arguments: positional and keyword arguments of the model.
        trace, build: record a pass, and read its zeroth-order graph.
    """
    for axis in (0, 1):
        length = _shared_length(arguments, axis)
        if length is None or length < 2:
            break
        try:
            graph = build(trace(_cut(arguments, axis, 2)))
        except DeepstructError:
            break  # the axis has a length that the model insists on: no batch
        if _apart(graph, axis):
            note = f"axis {axis} of the inputs is the batch: the first of {length} samples counts"
            return _cut(arguments, axis, 1), note
    return arguments, None


def _shared_length(arguments: Arguments, axis: int) -> int | None:
    lengths = set()

    def look(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() > 0:
            lengths.add(tensor.shape[axis] if tensor.dim() > axis else None)
        return tensor

    map_tensors(arguments, look)
    return lengths.pop() if len(lengths) == 1 else None


def _cut(arguments: Arguments, axis: int, count: int) -> Arguments:
    out: Any = map_tensors(arguments, lambda t: t.narrow(axis, 0, count) if t.dim() > axis else t)
    return out


def _apart(graph: StructureGraph, axis: int) -> bool:
    """Whether two samples along an axis of every source never meet."""
    marks = [torch.zeros(graph.num_slots) for _ in range(2)]
    found = False
    for space in graph.spaces:
        if not space.is_source:
            continue
        if len(space.shape) <= axis or space.shape[axis] != 2:
            return False
        found = True
        for k, mark in enumerate(marks):
            mark[space.slots].view(space.shape).select(axis, k).fill_(1)
    if not found:
        return False
    first, second = (sweep(graph, mark, BOOLEAN) > 0.5 for mark in marks)
    return not bool((first & second).any())
