"""Recognises normalizations that are written by hand, so that they count as the native ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from deepstruct.structure.node import refs
from deepstruct.trace.opgraph import Call

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph

REDUCTIONS = frozenset({"mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm"})
_MOVES = frozenset({
    "view", "_unsafe_view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "expand", "expand_as",
    "_to_copy", "clone", "detach", "contiguous", "alias", "t", "lift_fresh",
})  # fmt: skip
_NOT_NORM = frozenset({"relu", "sigmoid", "tanh", "gelu", "silu", "softplus", "leaky_relu", "elu", "where"})


def is_hand_written_norm(graph: OpGraph, call: Call, signals: Mapping[int, Any]) -> bool:
    """Whether a module's body is only element-wise ops and reductions of its single input, of equal shape.

    A module that centres or scales by statistics of its own input is a normalization, whatever it is
    called: a hand-written RMSNorm then has the structure of the native one.
    """
    inputs = {i for i in refs((call.args, call.kwargs)) if signals.get(i) is not None}
    outputs = list(refs(call.output))
    if len(inputs) != 1 or len(outputs) != 1:
        return False
    (x,) = inputs
    if graph.values[x].shape != graph.values[outputs[0]].shape:
        return False
    reduced = False
    inside = set()
    for op in graph.ops[call.start : call.stop]:
        for id in refs((op.args, op.kwargs)):
            foreign = id not in inside and id != x and signals.get(id) is not None
            if foreign:
                return False
        inside.update(o for o in op.outputs if o is not None)
        if op.name in REDUCTIONS:
            reduced = True
        elif op.name in _NOT_NORM:
            return False
        elif op.name not in _MOVES and torch.Tag.pointwise not in getattr(op.target, "tags", ()):
            return False
    return reduced and outputs[0] in inside
