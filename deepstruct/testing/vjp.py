"""The oracle for models of real size: one backward pass of one output unit against one boolean sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.settings import Settings
from deepstruct.testing.build import build_from_trace, generic_copy
from deepstruct.testing.jacobian import replay_of
from deepstruct.testing.support import OracleError, Support, require_contained
from deepstruct.trace import trace


@dataclass(frozen=True)
class Probe:
    """One output element that was looked at.

    Attributes:
        output: which one, in words.
        depends_on: number of source elements with a non-zero derivative.
        reached_by: number of source elements that a path of the graph connects to it.
    """

    output: str
    depends_on: int
    reached_by: int

    @property
    def equal(self) -> bool:
        """Whether the graph has no path beyond what the derivative says (containment was checked before)."""
        return self.depends_on == self.reached_by


def check_vjp(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    outputs: int = 3,
    seed: int = 0,
    smooth: bool = True,
    dtype: torch.dtype = torch.float64,
    generic: bool = True,
    **settings: Any,
) -> list[Probe]:
    """Checks a few random output elements of a model of any size.

    For each, the sources with a non-zero derivative have to be among those that a transposed boolean sweep
    over the edge operators reaches. Conventions are those of `jacobian_support`.

    Args:
        outputs: how many output elements.
        generic: use a copy with generic random weights; False takes the model's own weights.
        settings: those of `build_graph`.

    Raises:
        OracleError: with the first output and source element that contradict each other.
    """
    if generic:
        model, (args, kwargs) = generic_copy(model, example_input, example_kwargs=example_kwargs, seed=seed)
        record = trace(model, args, example_kwargs=kwargs)
    else:
        record = trace(model, example_input, example_kwargs=example_kwargs)
    graph = build_from_trace(record, Settings(**settings))
    replay = replay_of(graph, smooth=smooth, seed=seed, dtype=dtype)
    results, sources = replay.run()
    by_id = dict(zip(replay.wanted, results, strict=True))
    ids = dict(record.outputs)
    sizes = [operand.numel for _, operand in graph.outputs]
    if not sum(sizes):
        raise OracleError(f"{type(model).__name__} has no output element that is a unit")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(sum(sizes), generator=generator)[:outputs].tolist()
    spaces = [s for s in graph.spaces if s.is_source]
    names = [(s.name, s.shape) for s in spaces]
    shapes = [(name, operand.shape) for name, operand in graph.outputs]
    probes = []
    for position in chosen:
        tensor, element = 0, position
        while element >= sizes[tensor]:
            element -= sizes[tensor]
            tensor += 1
        name, operand = graph.outputs[tensor]
        real = _gradient(by_id[ids[name]], element, sources)
        slot = int(operand.index().reshape(-1)[element])
        reached = reach_backward(graph, slot)
        there = torch.cat([reached[s.slots] for s in spaces])
        label = Support(there[None], shapes, names).row(position)
        one: list[tuple[str, tuple[int, ...]]] = [(label, ())]
        require_contained(Support(real[None], one, names), Support(there[None], one, names), type(model).__name__)
        probes.append(Probe(label, int(real.sum()), int(there.sum())))
    return probes


def _gradient(output: torch.Tensor, element: int, sources: list[torch.Tensor]) -> torch.Tensor:
    """Boolean per source element: whether the derivative of one output element is not zero."""
    if not output.requires_grad:
        return torch.zeros(sum(s.numel() for s in sources), dtype=torch.bool)
    flat = torch.view_as_real(output).reshape(-1, 2).sum(1) if output.is_complex() else output.reshape(-1)
    value = flat[element]
    grads = torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True)
    flat = torch.cat([
        torch.zeros(s.numel(), dtype=torch.float64) if g is None else g.detach().abs().reshape(-1).to(torch.float64)
        for g, s in zip(grads, sources, strict=True)
    ])  # fmt: skip
    if not bool(flat.isfinite().all()):
        raise OracleError("the derivative has entries that are not finite: choose another seed or input")
    return flat > 0


def reach_backward(graph: StructureGraph, slot: int) -> torch.Tensor:
    """Boolean per slot: whether a path leads from it to the given slot (a negative slot is no unit)."""
    reached = torch.zeros(graph.num_slots, dtype=torch.float32)
    if slot < 0:
        return reached > 0
    reached[slot] = 1
    for op in reversed(graph.operators):
        y = op.target.gather(reached)
        if not bool((y > 0).any()):
            continue
        # a unit that is part of a sum reaches what the sum reaches: its identity edge counts here
        x = op.backward((y > 0).to(torch.float32))
        op.source.accumulate(reached, (x > 0.5).to(torch.float32))
    return reached > 0
