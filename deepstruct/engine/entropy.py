"""Entropy of paths: of the choice at every unit, and of the whole distribution over paths."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch

from deepstruct.engine import budget
from deepstruct.engine.flow import flow_totals, to_outputs, weighing
from deepstruct.engine.semiring import Counting
from deepstruct.engine.steps import is_edge
from deepstruct.engine.sweeps import carry
from deepstruct.errors import MetricError
from deepstruct.structure.graph import StructureGraph
from deepstruct.structure.operators import EdgeOperator, WeightMode, WeightRef, alive

_WEIGHTED = Counting(mode="abs")


def choice_entropy(graph: StructureGraph, mode: WeightMode = "pattern") -> torch.Tensor:
    """float64 per slot: entropy, in nats, of how the paths from a unit to the outputs split over its out-edges.

    An edge u -> v is taken with probability w b(v) / b(u), b the sum over the paths to the outputs; an output
    also stops, with probability 1 / b(u). NaN where no output is reached. In mode "pattern" w = 1 and all paths
    are alike; in mode "abs" they count with the product of |w|.

    With H = log b(u) - (1 / b(u)) * sum of w b(v) log(w b(v)), one more pass gives it for all units.
    """
    back = to_outputs(graph, mode)
    logarithm = back.log()
    there = back.mantissa > 0
    content = torch.where(there, back.mantissa * logarithm, 0)
    back.values = torch.stack([back.mantissa, content])  # so that both are read at one exponent
    total = torch.zeros_like(content)
    semiring = Counting(mode=mode)
    for op in graph.operators:
        budget.check()
        (plain, inner), reference = back.read(op.target)
        out = carry(op, inner, semiring, transpose=True)
        if mode == "abs" and op.weighted:
            out = out + surprise(op).backward(plain, "signed")
        if (kept := is_edge(op)) is not None:
            out = out * kept
        scale = back.scale(op.source, reference, back=True)
        op.source.accumulate(total, out if scale is None else out * scale)
    entropy = logarithm - total / back.mantissa
    return torch.where(there, entropy.clamp(min=0), torch.nan)


def path_entropy(graph: StructureGraph, mode: WeightMode = "pattern") -> float:
    """Entropy, in nats, of the distribution over all paths from sources to outputs.

    In mode "pattern" all are alike: the logarithm of their number. In mode "abs" a path has a probability in
    proportion to the product of its |w|; the sweep carries (sum of p, sum of p log p) along. Raises MetricError
    where the paths sum to nothing.
    """
    if mode == "pattern":
        (total,), exponent = flow_totals(graph, 1, weighing())
        inner = 0.0
    else:
        (total, inner), exponent = flow_totals(graph, 2, _with_logarithm)
    if total <= 0:
        raise MetricError("no path leads from an input to an output")
    return max(math.log(total) + exponent * math.log(2) - inner / total, 0.0)


def _with_logarithm(op: EdgeOperator, parts: Sequence[torch.Tensor], transpose: bool) -> list[torch.Tensor]:
    """(z, r) -> (|w| z, |w| r + |w| log|w| z): the entropy semiring."""
    amount, inner = (carry(op, part, _WEIGHTED, transpose=transpose) for part in parts)
    if op.weighted:  # the logarithm of a structural edge's 1 is 0
        special = surprise(op)
        run = special.backward if transpose else special.forward
        inner = inner + run(parts[0], "signed")
    return [amount, inner]


def surprise(op: EdgeOperator) -> EdgeOperator:
    """The same edges with weights |w| log|w|, for mode "signed" and without a compiled kernel."""
    assert op.weight is not None
    tensor = op.weight.tensor
    if tensor.is_meta:
        raise MetricError(
            "the model's weights have no values (they are on the meta device), and this needs their magnitudes: load "
            "weights into the model first"
        )
    size = tensor.detach().to(torch.float64).abs()
    live = alive(tensor, float(getattr(op, "threshold", 0.0)))
    values = torch.where(live & (size > 0), size * size.log(), 0.0)
    twin = copy.copy(op)
    twin.weight = WeightRef(("surprise", *op.weight.key), values)
    if hasattr(twin, "threshold"):
        twin.threshold = 0.0
    return twin
