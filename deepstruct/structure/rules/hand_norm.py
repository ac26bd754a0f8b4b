"""Recognises normalizations that are written by hand, so that they count as the native ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepstruct.structure.node import is_pointwise, refs
from deepstruct.structure.signal import Signal
from deepstruct.trace.opgraph import Call

if TYPE_CHECKING:
    from deepstruct.structure.reader import Reader
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
    called: a hand-written RMSNorm then has the structure of the native one. A result that reads its input
    only through reductions is none.
    """
    inputs = {i for i in refs((call.args, call.kwargs)) if signals.get(i) is not None}
    outputs = list(refs(call.output))
    if len(inputs) != 1 or len(outputs) != 1:
        return False
    (x,) = inputs
    if graph.values[x].shape != graph.values[outputs[0]].shape:
        return False
    reduced = False
    inside, direct = set(), {x}  # results so far, and those that x reaches other than through a reduction
    for op in graph.ops[call.start : call.stop]:
        reads = list(refs((op.args, op.kwargs)))
        if any(id not in inside and id != x and signals.get(id) is not None for id in reads):
            return False
        made = [o for o in op.outputs if o is not None]
        inside.update(made)
        if op.name in REDUCTIONS:
            reduced = True
            continue
        if op.name in _NOT_NORM or not (op.name in _MOVES or is_pointwise(op)):
            return False
        if any(id in direct for id in reads):
            direct.update(made)
    return reduced and outputs[0] in inside and outputs[0] in direct


def read_norm(reader: Reader, call: Call) -> Signal | None:
    """The signal after such a norm: its operations are read, with the statistics as constants or as units.

    With normalization="stats" every element is a unit that reads its element of the input and its group's
    statistics, as after a native norm, however many statistics the module computes.
    """
    (out,) = refs(call.output)
    ops = reader.graph.ops[call.start : call.stop]
    before = reader.signals
    try:
        plain = reader.signals = dict(before)
        for op in ops:
            if op.name in REDUCTIONS:
                plain.update({o: None for o in op.outputs if o is not None})
            else:
                reader.read_op(op)
        elements = plain[out]
        if reader.settings.normalization == "one_to_one" or elements is None:
            return None if elements is None else elements.curved()
        statistics = _statistics(reader, call, before, plain)
        return reader.builder.merge([elements, statistics]).curved() if statistics is not None else elements.curved()
    finally:
        reader.signals = before


def _statistics(
    reader: Reader, call: Call, before: Mapping[int, Signal | None], plain: Mapping[int, Signal | None]
) -> Signal | None:
    """For every element of the result the unit of its statistics; reductions of the same elements are one."""
    (out,) = refs(call.output)
    inputs = set(refs((call.args, call.kwargs)))
    second: dict[int, Signal | None] = {id: s for id, s in before.items() if id not in inputs}
    known: list[tuple[Signal, tuple[int, ...], Signal]] = []  # (what was reduced, shape, statistics)
    for op in reader.graph.ops[call.start : call.stop]:
        source = plain.get(next(refs(op.args), -1))
        if op.name not in REDUCTIONS or source is None:
            reader.signals = second
            reader.read_op(op)
            continue
        shapes = [reader.graph.values[o].shape for o in op.outputs if o is not None]
        found = next((s for r, shape, s in known if shape == shapes[0] and r.same_units(source)), None)
        if found is None:
            reader.signals = dict(plain)
            reader.read_op(op)
            found = reader.signals[op.outputs[0] or 0]
            assert found is not None
            known.append((source, shapes[0], found))
        second.update({o: found for o in op.outputs if o is not None})
    return second.get(out)
