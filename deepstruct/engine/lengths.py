"""How long the paths from sources to outputs are: moments from one sweep, the whole distribution from steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from deepstruct.engine import budget
from deepstruct.engine.flow import flow_totals
from deepstruct.engine.passes import _primes_below, log2_path_count, reached, reaching
from deepstruct.engine.semiring import BOOLEAN, Counting, Modular
from deepstruct.engine.steps import Steps, is_edge
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator

_COUNT = Counting()
_EXACT = 2.0**53  # float64 holds every whole number below
_LARGE = 2.0**600


def length_moments(graph: StructureGraph) -> tuple[float, float]:
    """Mean and variance of the number of edges of a path from a source to an output, each path counted once.

    Dual numbers to the second order: every unit holds the number of paths to it, the sum of their lengths, and
    the sum of the squares. Raises MetricError where there is no path.
    """
    (count, first, second), _ = flow_totals(graph, 3, _one_longer)
    if count <= 0:
        raise MetricError("no path leads from an input to an output")
    mean = first / count
    return mean, max(second / count - mean * mean, 0.0)


def _one_longer(op: EdgeOperator, parts: Sequence[torch.Tensor], transpose: bool) -> list[torch.Tensor]:
    count, first, second = (carry(op, part, _COUNT, transpose=transpose) for part in parts)
    step = count if (kept := is_edge(op)) is None else count * kept  # what is part of a sum is no edge away from it
    twice = first if kept is None else first * kept
    return [count, first + step, second + 2 * twice + step]


def length_shares(graph: StructureGraph) -> dict[int, float]:
    """Share of the paths from sources to outputs that have each number of edges, shortest first.

    The number of paths of length k is the number of walks of k steps, one step after the other: all terms are
    positive, so that small shares are as precise as large ones. Raises MetricError where there is no path.
    """
    steps, useful = _prepared(graph)
    x = (graph.is_source & useful).to(torch.float64)
    active, exponent, length = steps.holding(x, steps.everywhere), 0, 0
    found: list[tuple[int, float, int]] = []
    while active:
        budget.check()
        arrived = float(x[graph.is_output & graph.is_node].sum())
        if arrived:
            found.append((length, arrived, exponent))
        top = max(float(x[graph.spaces[k].slots].max()) for k in active)
        if top > _LARGE:
            shift = math.frexp(top)[1]
            x *= 2.0**-shift
            exponent += shift
        x, touched = steps.step(x, _COUNT, active=active)
        x *= useful
        active, length = steps.holding(x, touched), length + 1
    if not found:
        raise MetricError("no path leads from an input to an output")
    top_exponent = max(e for _, _, e in found)
    amounts = {k: math.ldexp(value, max(e - top_exponent, -2000)) for k, value, e in found}
    total = math.fsum(amounts.values())
    return {k: amount / total for k, amount in amounts.items()}


def length_counts(graph: StructureGraph) -> dict[int, int]:
    """Number of paths from sources to outputs with each number of edges, as exact integers, shortest first.

    Counts below 2**53 come from float64; larger ones from residues modulo primes, joined by the Chinese
    remainder theorem. Empty where there is no path.
    """
    steps, useful = _prepared(graph)
    plain = _walks(steps, useful, _COUNT)
    if sum(plain.values()) < _EXACT:  # no unit on these paths holds more than their total
        return {k: int(value) for k, value in plain.items()}
    counts, modulus, bits = dict.fromkeys(plain, 0), 1, log2_path_count(graph)
    fan_in = max((op.fan_in() for op in graph.operators), default=1)
    for prime in _primes_below(2**53 // max(2 * fan_in, 2)):
        if math.log2(modulus) > bits + 2:
            break
        inverse = pow(modulus, -1, prime)
        for k, value in _walks(steps, useful, Modular(prime)).items():
            counts[k] += modulus * ((int(value) - counts[k]) * inverse % prime)
        modulus *= prime
    return counts


def _walks(steps: Steps, useful: torch.Tensor, semiring: Counting | Modular) -> dict[int, float]:
    """Per length the sum over the outputs of the number of walks from the sources, modulo the prime if there is one."""
    graph = steps.graph
    mask, outputs = useful.to(semiring.dtype), graph.is_output & graph.is_node
    x = graph.is_source.to(semiring.dtype) * mask
    # where walks get to does not depend on the arithmetic: a residue of zero is not nothing
    here = (graph.is_source & useful).to(BOOLEAN.dtype)
    active, length, found = steps.holding(here, steps.everywhere), 0, {}
    while active:
        budget.check()
        if bool((here.bool() & outputs).any()):
            amount = sum(x[outputs].tolist()) if semiring.prime else float(x[outputs].sum())
            found[length] = amount % semiring.prime if semiring.prime else amount
        x, _ = steps.step(x, semiring, active=active)
        x *= mask
        here, touched = steps.step(here, BOOLEAN, active=active)
        here *= useful
        active, length = steps.holding(here, touched), length + 1
    return found


def _prepared(graph: StructureGraph) -> tuple[Steps, torch.Tensor]:
    """Steps, and the units on paths from sources to outputs: what leads nowhere could outgrow what counts."""
    if not graph.is_dag:
        raise MetricError(f"the {graph.order}-order graph has cycles: its paths have no end")
    useful = reached(graph) & reaching(graph)
    return Steps(graph), useful | graph.is_carrier  # scores hang on what they read and on what reads them
