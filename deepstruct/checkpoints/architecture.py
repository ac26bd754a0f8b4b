"""One architecture, traced once: each checkpoint only swaps the weights and masks behind its graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deepstruct.checkpoints.match import tied
from deepstruct.checkpoints.spec import BatchSpec

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph


class Architecture:
    """A model traced for one question.

    `swap` gives its graph with the weights of a checkpoint. Tensors are compared with those of the last checkpoint:
    what is unchanged is neither copied nor read again, and its layers keep what is known of them.
    """

    def __init__(self, model: nn.Module, spec: BatchSpec, example: Any = None) -> None:
        from deepstruct.api import extract

        self.model = model
        self.expected = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        self.ties = tied(model)
        self.graph: StructureGraph = extract(
            model, spec.example_input if example is None else example, example_kwargs=spec.example_kwargs,
            order="zeroth", progress=False, **dict(spec.structure),
        )  # fmt: skip
        trace = self.graph.context.trace
        self.fingerprint = fingerprint(trace)
        known = {**trace.parameters, **trace.buffers}
        self._values = {name: known[name] for name in self.expected if name in known}
        self._given = False  # whether the graph's weights are those of a checkpoint

    def swap(self, state: Mapping[str, Tensor]) -> tuple[StructureGraph, int]:
        """(graph with these weights, how many tensors were unchanged). Names and shapes are those of the model."""
        from deepstruct.structure.reweigh import reweighted

        values = self.graph.context.trace.values
        given = {name: state[name] for name in self._values if name in state}
        changed = {
            name: tensor for name, tensor in given.items()
            if not self._given or not _equal(values[self._values[name]].data, tensor)
        }  # fmt: skip
        if changed:
            before, self._given = self.graph, False  # should reading fail, the next one reads everything
            self.graph = keep_layers(before, reweighted(before, changed))
        self._given = True
        return self.graph, len(given) - len(changed)


def _equal(held: Tensor, given: Tensor) -> bool:
    """Whether a tensor that is held, which is a copy, has the values that are given."""
    return not held.is_meta and held.shape == given.shape and torch.equal(held, given.detach().to(held.dtype))


def fingerprint(trace: Any) -> str:
    """Of what a model computes, whatever its weights: operations, shapes, and names of parameters."""
    digest = hashlib.blake2b(digest_size=8)
    for name, id in sorted({**trace.parameters, **trace.buffers}.items()):
        digest.update(f"{name}{trace.values[id].shape};".encode())
    for op in trace.ops:
        shapes = [trace.values[id].shape for id in op.outputs if id is not None]
        digest.update(f"{op.name}{shapes}{_numbers([*op.args, *op.kwargs.values()])};".encode())
    return digest.hexdigest()


def _numbers(value: Any) -> Any:
    """What of an operation's arguments says how it is wired: numbers, strings, and which values it reads."""
    if isinstance(value, (list, tuple)):
        return [_numbers(entry) for entry in value]
    return value if isinstance(value, (int, float, bool, str)) else getattr(value, "id", None)


def keep_layers(before: StructureGraph, after: StructureGraph) -> StructureGraph:
    """The graph after, with those edge operators of the graph before whose weights are the very same tensors.

    What was computed of such an operator, and is kept with it, need not be computed again.
    """
    if len(before.operators) == len(after.operators):
        for k, (old, new) in enumerate(zip(before.operators, after.operators, strict=True)):
            if type(old) is type(new) and old.weight is not None and new.weight is not None and _alike(old, new):
                after.operators[k] = old
    return after


def _alike(old: Any, new: Any) -> bool:
    """Whether two operators join the same units through the same weights."""
    a, b = old.weight.tensor, new.weight.tensor
    if a.is_meta or (a.data_ptr(), a.shape, a.stride(), a.dtype) != (b.data_ptr(), b.shape, b.stride(), b.dtype):
        return False
    if (old.name, old.call, old.weight.learned) != (new.name, new.call, new.weight.learned):
        return False
    if getattr(old, "threshold", 0.0) != getattr(new, "threshold", 0.0):
        return False
    return all(
        one.stride is not None and (one.shape, one.stride, one.offset) == (two.shape, two.stride, two.offset)
        for one, two in ((old.source, new.source), (old.target, new.target))
    )
