"""Recurrent layers, unrolled over the sequence; the channels of a layer are the same at every step.

The units are those of the cell written out by hand, operation by operation: gates (the sum of both
projections), products of gates with states, and sums of products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from deepstruct.errors import StructureError
from deepstruct.structure.builder import Builder, Region
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal
from deepstruct.structure.space import Space

rules = RuleSet()


@dataclass(frozen=True)
class _Weights:
    """Stored weights of one layer in one direction, transposed to (in, out)."""

    ih: WeightRef
    hh: WeightRef
    bias: bool
    projection: WeightRef | None


@dataclass(frozen=True)
class _Run:
    """The sequence of one layer and direction: rows (offset, count) of the packed data, step by step."""

    builder: Builder
    title: str
    rows: int
    steps: Sequence[tuple[int, int]]

    def space(self, part: str, width: int, kind: str, additive: bool) -> Callable[[int, int], Region]:
        """Allocates units (rows, width) for the whole sequence; returns the region of one step."""
        whole: list[Space] = []

        def region(offset: int, count: int) -> Region:
            if not whole:
                name = f"{self.title}.{part}"
                whole.append(self.builder.space((self.rows, width), kind, additive=additive, name=name))
            return self.builder.region(whole[0], offset * width, (count, width))

        return region


@rules.function("lstm")
def lstm(b: Builder, node: Node) -> list[Signal | None]:
    """LSTM over padded or packed sequences, with projections, layers and directions."""
    return _layers(b, node, _lstm, states=2, gates=4)


@rules.function("gru")
def gru(b: Builder, node: Node) -> list[Signal | None]:
    """GRU over padded or packed sequences."""
    return _layers(b, node, _gru, states=1, gates=3)


@rules.function("rnn_tanh", "rnn_relu")
def rnn(b: Builder, node: Node) -> list[Signal | None]:
    """Elman RNN over padded or packed sequences."""
    return _layers(b, node, _rnn, states=1, gates=1)


Cell = Callable[[_Run, Signal, list[Signal], _Weights], tuple[Signal, list[Signal]]]


def _layers(b: Builder, node: Node, cell: Cell, states: int, gates: int) -> list[Signal | None]:
    packed = not isinstance(node.args[3], bool)
    if packed:
        data, batch_sizes, hx, params, _, layers, dropout, train, both = node.args[:9]
        counts = [int(n) for n in batch_sizes.tensor().tolist()]
        batch_first = False
    else:
        data, hx, params, _, layers, dropout, train, both, batch_first = node.args[:9]
        counts = []
    if data.signal is None or any(p.signal is not None for p in params):
        return NotImplemented
    if train and dropout:
        b.note("dropout between recurrent layers is in training mode: it was ignored, as in evaluation")
    x = data.signal
    if not packed:
        if batch_first:
            x = x.mapped(lambda t: t.transpose(0, 1))
        length, batch = x.shape[:2]
        counts = [batch] * length
        x = x.mapped(lambda t: t.reshape(length * batch, -1))
    steps = list(_steps(counts))
    initial = [_initial(s) for s in (hx if isinstance(hx, (list, tuple)) else [hx])]
    if len(initial) != states:
        raise StructureError(f"{node.name} expects {states} initial states, got {len(initial)}")
    weights = list(_weights(params, gates))
    directions = 2 if both else 1
    finals: list[list[Signal]] = [[] for _ in range(states)]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            title = f"{b.where[0] or node.name}.l{layer}{'_reverse' if direction else ''}"
            run = _Run(b, title, x.shape[0], steps[::-1] if direction else steps)
            first = [s.mapped(lambda t, k=k: t[k]) for s in initial]  # type: ignore[misc]
            out, last = cell(run, x, first, weights[k])
            outputs.append(out)
            for collected, state in zip(finals, last, strict=True):
                collected.append(state)
        x = outputs[0] if directions == 1 else b.reindex(lambda *t: torch.cat(t, -1), outputs)[0]
    result = x
    if not packed:
        result = x.mapped(lambda t: t.reshape(length, batch, -1))
        if batch_first:
            result = result.mapped(lambda t: t.transpose(0, 1))
    stacked = [b.reindex(lambda *t: torch.stack(t), s)[0] for s in finals]
    return [result, *stacked]


def _steps(counts: list[int]) -> Iterator[tuple[int, int]]:
    offset = 0
    for count in counts:
        yield offset, count
        offset += count


def _initial(state: Arg) -> Signal:
    table = state.table()
    return table if isinstance(table, Signal) else Signal(table)


def _weights(params: Sequence[Arg], gates: int) -> Iterator[_Weights]:
    """The parameters of every layer and direction, told apart by their shapes."""
    position = 0
    while position < len(params):
        ih, hh = params[position], params[position + 1]
        position += 2
        bias, projection = False, None
        if position < len(params) and len(params[position].shape) == 1:
            bias, position = True, position + 2
        hidden = ih.shape[0] // gates
        if hh.shape[1] != hidden:  # the state is a projection of the cell's output
            projection, position = _in_out(params[position]), position + 1
        yield _Weights(_in_out(ih), _in_out(hh), bias, projection)


def _in_out(weight: Arg) -> WeightRef:
    ref = weight.weight()
    return ref._replace(tensor=ref.tensor.transpose(0, 1))


def _scan(
    run: _Run, states: list[Signal], step: Callable[[int, int, list[Signal]], tuple[Signal, list[Signal]]]
) -> tuple[Signal, list[Signal]]:
    """Runs the steps; sequences that have ended keep their state."""
    b, outputs = run.builder, {}
    for offset, count in run.steps:
        now = [s.mapped(lambda t, n=count: t[:n]) for s in states]  # type: ignore[misc]
        out, new = step(offset, count, now)
        outputs[offset] = out
        if count == states[0].shape[0]:
            states = new
        else:
            rest = [s.mapped(lambda t, n=count: t[n:]) for s in states]  # type: ignore[misc]
            states = [
                b.reindex(lambda *t: torch.cat(t), pair)[0] for pair in zip(new, rest, strict=True)
            ]
    ordered = [outputs[o] for o in sorted(outputs)]
    return b.reindex(lambda *t: torch.cat(t), ordered)[0], states


def _rows(signal: Signal, offset: int, count: int) -> Signal:
    return signal.mapped(lambda t: t[offset : offset + count])


def _columns(signal: Signal, part: int, width: int) -> Signal:
    return signal.mapped(lambda t: t[:, part * width : (part + 1) * width])


def _project(b: Builder, x: Signal, h: Signal, w: _Weights, into: Region) -> Signal:
    """Gates: both projections into the same units."""
    b.matmul(x, w.ih, bias=w.bias, into=into)
    return b.matmul(h, w.hh, bias=w.bias, into=into)


def _rnn(run: _Run, x: Signal, states: list[Signal], w: _Weights) -> tuple[Signal, list[Signal]]:
    b, width = run.builder, w.hh.tensor.shape[1]
    hidden = run.space("hidden", width, "recurrent", additive=True)

    def step(offset: int, count: int, now: list[Signal]) -> tuple[Signal, list[Signal]]:
        h = _project(b, _rows(x, offset, count), now[0], w, hidden(offset, count)).curved()
        return h, [h]

    return _scan(run, states, step)


def _lstm(run: _Run, x: Signal, states: list[Signal], w: _Weights) -> tuple[Signal, list[Signal]]:
    b, width = run.builder, w.ih.tensor.shape[1] // 4
    gates = run.space("gates", 4 * width, "recurrent", additive=True)
    kept = run.space("forget", width, "product", additive=False)
    fresh = run.space("input", width, "product", additive=False)
    cell = run.space("cell", width, "sum", additive=True)
    hidden = run.space("hidden", width, "product", additive=False)
    narrow = w.projection.tensor.shape[1] if w.projection else 0
    projected = run.space("projected", narrow, "contraction", additive=True)

    def step(offset: int, count: int, now: list[Signal]) -> tuple[Signal, list[Signal]]:
        h, c = now
        all_gates = _project(b, _rows(x, offset, count), h, w, gates(offset, count))
        i, f, g, o = (_columns(all_gates, k, width).curved() for k in range(4))
        old = b.merge([f, c], product=True, into=kept(offset, count))
        new = b.merge([i, g], product=True, into=fresh(offset, count))
        c = b.merge([old, new], additive=True, into=cell(offset, count))
        h = b.merge([o, c.curved()], product=True, into=hidden(offset, count))
        if w.projection is not None:
            h = b.matmul(h, w.projection, into=projected(offset, count))
        return h, [h, c]

    return _scan(run, states, step)


def _gru(run: _Run, x: Signal, states: list[Signal], w: _Weights) -> tuple[Signal, list[Signal]]:
    b, width = run.builder, w.hh.tensor.shape[0]
    gates = run.space("gates", 2 * width, "recurrent", additive=True)
    candidate = run.space("hidden_part", width, "recurrent", additive=True)
    gated = run.space("reset", width, "product", additive=False)
    inner = run.space("candidate", width, "sum", additive=True)
    inputs = run.space("input_part", width, "recurrent", additive=True)
    change = run.space("change", width, "sum", additive=True)
    scaled = run.space("update", width, "product", additive=False)
    hidden = run.space("hidden", width, "sum", additive=True)

    def part(ref: WeightRef, start: int, stop: int) -> WeightRef:
        return ref._replace(tensor=ref.tensor[:, start * width : stop * width])

    def step(offset: int, count: int, now: list[Signal]) -> tuple[Signal, list[Signal]]:
        (h,) = now
        here = _rows(x, offset, count)
        first = _Weights(part(w.ih, 0, 2), part(w.hh, 0, 2), w.bias, None)
        both = _project(b, here, h, first, gates(offset, count))
        r, z = (_columns(both, k, width).curved() for k in range(2))
        from_h = b.matmul(h, part(w.hh, 2, 3), bias=w.bias, into=candidate(offset, count))
        reset = b.merge([r, from_h], product=True, into=gated(offset, count))
        from_x = b.matmul(here, part(w.ih, 2, 3), bias=w.bias, into=inputs(offset, count))
        n = b.merge([from_x, reset], additive=True, into=inner(offset, count)).curved()
        delta = b.merge([h, n], additive=True, into=change(offset, count))
        delta = b.merge([delta, z], product=True, into=scaled(offset, count))
        h = b.merge([delta, n], additive=True, into=hidden(offset, count))
        return h, [h]

    return _scan(run, states, step)



