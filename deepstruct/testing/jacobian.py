"""The oracle for small models: the non-zero pattern of the derivative of all outputs by all sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.settings import Settings
from deepstruct.testing.build import build_from_trace, generic_copy
from deepstruct.testing.explicit import graph_support
from deepstruct.testing.replay import Replay
from deepstruct.testing.support import OracleError, Support, require_contained, require_equal
from deepstruct.trace import trace

TOLERANCE = 1e-12  # of the largest entry: below it lies rounding noise
_BATCH = 128  # rows of the derivative at a time


def jacobian_support(
    model: nn.Module,
    example_input: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    smooth: bool = True,
    draws: int | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    **settings: Any,
) -> Support:
    """Which output elements depend on which source elements of a model, by differentiation.

    A deep copy with generic random weights is traced and replayed in float64; the model is not touched.
    Sources are floating inputs, and the rows that integer inputs look up in embeddings. Under the
    conventions of the graph, statistics of norms (with normalization="one_to_one") and denominators of a
    softmax are constants; masks stay what they are.

    Args:
        smooth: replace ReLU, max pooling, absolute values, clamps, sorting and choices by the data with
            smooth stand-ins that depend on the same elements, so that one draw suffices.
        draws: how many random inputs to take the union over; by default 1 if smooth, else 20.
        tolerance: entries up to this fraction of the largest one count as zero.
        settings: those of `build_graph`.
    """
    graph = _generic_graph(model, example_input, example_kwargs, seed, settings)
    return _support(graph, smooth, draws, seed, tolerance)


def check_containment(
    model: nn.Module, example_input: Any = None, *, example_kwargs: Mapping[str, Any] | None = None,
    smooth: bool = True, draws: int | None = None, seed: int = 0, tolerance: float = TOLERANCE, **settings: Any,
) -> StructureGraph:  # fmt: skip
    """Checks that every dependency of the model is a path of its graph. Arguments as in `jacobian_support`.

    Returns the graph that was checked (that of the copy with generic weights). Raises OracleError, which
    names the first output and source element that differ.
    """
    graph = _generic_graph(model, example_input, example_kwargs, seed, settings)
    real = _support(graph, smooth, draws, seed, tolerance)
    require_contained(real, graph_support(graph), type(model).__name__)
    return graph


def check_equality(
    model: nn.Module, example_input: Any = None, *, example_kwargs: Mapping[str, Any] | None = None,
    smooth: bool = True, draws: int | None = None, seed: int = 0, tolerance: float = TOLERANCE, **settings: Any,
) -> StructureGraph:  # fmt: skip
    """Checks that paths of the graph and dependencies of the model are the same. As `check_containment`."""
    graph = _generic_graph(model, example_input, example_kwargs, seed, settings)
    real = _support(graph, smooth, draws, seed, tolerance)
    require_equal(real, graph_support(graph), type(model).__name__)
    return graph


def _generic_graph(
    model: nn.Module, example: Any, kwargs: Mapping[str, Any] | None, seed: int, settings: Mapping[str, Any]
) -> StructureGraph:
    twin, (args, named) = generic_copy(model, example, example_kwargs=kwargs, seed=seed)
    return build_from_trace(trace(twin, args, example_kwargs=named), Settings(**settings))


def _support(graph: StructureGraph, smooth: bool, draws: int | None, seed: int, tolerance: float) -> Support:
    spaces = [s for s in graph.spaces if s.is_source]
    replay = replay_of(graph, smooth=smooth, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    matrix: torch.Tensor | None = None
    for draw in range(draws or (1 if smooth else 20)):
        fresh = _other_inputs(replay, generator) if draw else None
        outputs, sources = replay.run(fresh)
        by_id = dict(zip(replay.wanted, outputs, strict=True))
        known = {name for name, _ in graph.outputs}
        rows = [_derivative(by_id[id], sources, tolerance) for name, id in replay.record.outputs if name in known]
        width = sum(s.numel() for s in sources)
        here = torch.cat(rows) if rows else torch.zeros(0, width, dtype=torch.bool)
        matrix = here if matrix is None else matrix | here
    assert matrix is not None
    return Support(matrix, [(n, o.shape) for n, o in graph.outputs], [(s.name, s.shape) for s in spaces])


def replay_of(graph: StructureGraph, **options: Any) -> Replay:
    """The replay of the trace that a zeroth-order graph was read from."""
    spaces = [s for s in graph.spaces if s.is_source]
    origin = graph.context
    sources = [s.value for s in spaces if s.value is not None]
    if len(sources) != len(spaces):
        missing = [s.name for s in spaces if s.value is None]
        raise OracleError(
            f"the sources {missing} do not know the value of the trace that they stand for, so there is nothing to "
            "differentiate by: the rule has to call builder.source(..., value=id)"
        )
    return Replay(origin.trace, origin.settings, sources, origin.norms, **options)


def _other_inputs(replay: Replay, generator: torch.Generator) -> dict[int, torch.Tensor]:
    values = replay.record.values
    return {
        v: torch.randn(values[v].shape, generator=generator, dtype=torch.float64)
        for v in replay.record.inputs
        if values[v].dtype.is_floating_point
    }


def _derivative(output: torch.Tensor, sources: Sequence[torch.Tensor], tolerance: float) -> torch.Tensor:
    """Boolean (output elements, source elements): where the derivative is not zero."""
    width = sum(s.numel() for s in sources)
    if output.is_complex():
        parts = torch.view_as_real(output)
        both = [_derivative(parts[..., k], sources, tolerance) for k in (0, 1)]
        return both[0] | both[1]
    if not output.requires_grad:
        return torch.zeros(output.numel(), width, dtype=torch.bool)
    flat = output.reshape(-1)
    rows = []
    for start in range(0, flat.numel(), _BATCH):
        units = torch.eye(flat.numel(), dtype=flat.dtype)[start : start + _BATCH]
        rows.append(_rows(flat, sources, units))
    jacobian = torch.cat(rows).abs() if rows else torch.zeros(0, width)
    if not bool(jacobian.isfinite().all()):
        raise OracleError("the derivative has entries that are not finite: choose another seed or input")
    top = jacobian.max() if jacobian.numel() else 0.0
    return jacobian > tolerance * top


def _rows(flat: torch.Tensor, sources: Sequence[torch.Tensor], units: torch.Tensor) -> torch.Tensor:
    def flatten(grads: Sequence[torch.Tensor | None], lead: tuple[int, ...]) -> torch.Tensor:
        parts = [
            (torch.zeros(*lead, s.numel(), dtype=torch.float64) if g is None else g.abs().reshape(*lead, -1))
            for g, s in zip(grads, sources, strict=True)
        ]
        return torch.cat(parts, -1)

    lead = (len(units),)
    try:
        grads = torch.autograd.grad(
            flat, sources, units, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
        return flatten(grads, lead)
    except (RuntimeError, NotImplementedError):  # no batching rule: one row at a time
        rows = [
            flatten(torch.autograd.grad(flat, sources, u, retain_graph=True, allow_unused=True), ()) for u in units
        ]
        return torch.stack(rows)
