"""What masks cut off, by paths: outputs without any input, units on no path, pairs that lost each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.engine.passes import reached, reaching
from deepstruct.engine.reach import reaches
from deepstruct.pruning.view import View
from deepstruct.structure.graph import StructureGraph


@dataclass(frozen=True)
class Alive:
    """What is left of a masked model, against the same model with all weights.

    Only what a path could reach in the whole model is counted. A unit is dead when it is on no path from an input to
    an output, an output when no path leads to it, a connection when it is on none.

    Attributes:
        outputs, dead_outputs: how many.
        inputs, dead_inputs: how many; a dead one has no path to any output.
        units: layer -> (hidden units, dead ones).
        weights: name of the weight -> (weights kept, kept ones that are on no path).
    """

    outputs: int
    dead_outputs: int
    inputs: int
    dead_inputs: int
    units: Mapping[str, tuple[int, int]]
    weights: Mapping[str, tuple[int, int]]

    @property
    def dead_units(self) -> int:
        return sum(dead for _, dead in self.units.values())

    @property
    def dead_weights(self) -> int:
        return sum(dead for _, dead in self.weights.values())

    def __str__(self) -> str:
        lines = [
            f"outputs cut off: {self.dead_outputs} of {self.outputs}",
            f"inputs cut off:  {self.dead_inputs} of {self.inputs}",
            f"dead units:      {self.dead_units} of {sum(n for n, _ in self.units.values())}",
            f"dead weights:    {self.dead_weights} of {sum(n for n, _ in self.weights.values())} kept",
        ]
        lines += [f"  {name}: {dead} of {n} units dead" for name, (n, dead) in self.units.items() if dead]
        lines += [f"  {name}: {dead} of {n} weights on no path" for name, (n, dead) in self.weights.items() if dead]
        return "\n".join(lines)


def alive(model: nn.Module | View, example_input: Any = None) -> Alive:
    """Count what the masks of a model leave alive, at any size; nothing is written down.

    Raises InputError where no example input is given or found.
    """
    view = model if isinstance(model, View) else View(model, example_input=example_input)
    network = view.network
    graph, full = network.graph(view.masks), network.full
    before, now = flows(full), flows(graph)
    could = before[0] & before[1]
    does = now[0] & now[1]
    units = {}
    hidden = ~(full.is_source | full.is_output)
    for space in full.spaces:
        here = slice(space.offset, space.offset + space.numel)
        counted = could[here] & hidden[here] & full.is_node[here]
        if bool(counted.any()):
            units[space.name] = (int(counted.sum()), int((counted & ~does[here]).sum()))
    used = network.spread(now[0].to(torch.float64), now[1].to(torch.float64))
    weights = {
        name: (int(mask.sum()), int((mask.cpu() & (used[name] < 0.5)).sum())) for name, mask in view.masks.items()
    }
    ends = [could & full.is_output & full.is_node, could & full.is_source]
    (outputs, dead_outputs), (inputs, dead_inputs) = ((int(e.sum()), int((e & ~does).sum())) for e in ends)
    return Alive(outputs, dead_outputs, inputs, dead_inputs, units, weights)


def flows(graph: StructureGraph) -> tuple[Tensor, Tensor]:
    """Boolean per slot: reached from an input; and reaching an output."""
    return reached(graph), reaching(graph)


def pairs(graph: StructureGraph) -> Tensor:
    """Boolean (inputs, outputs): whether a path leads from one to the other."""
    sources = graph.is_source.nonzero().flatten()
    outputs = (graph.is_output & graph.is_node).nonzero().flatten()
    forward = len(sources) < len(outputs)
    seeds, ends = (sources, outputs) if forward else (outputs, sources)
    parts = [torch.zeros(0, len(ends), dtype=torch.bool)]
    for part, words in reaches(graph, seeds, transpose=not forward):
        bits = torch.arange(len(part))
        parts.append(((words[ends][None, :] >> bits[:, None]) & 1).bool())
    found = torch.cat(parts)
    return found if forward else found.T
