"""What a pass over a network's operators needs at least: operations and bytes, and what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from deepstruct.structure.graph import StructureGraph

_NUMBER = 8  # bytes of a float64 or int64
_ENTRY = 4  # bytes of the position of a weight that is not zero


class Rates(NamedTuple):
    """What one thread of this machine reaches: float64 multiply-adds and bytes of memory traffic in a second."""

    operations: float
    bytes: float


class Need(NamedTuple):
    """Operations and bytes of one pass."""

    operations: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """The least time, were operations and traffic to run at full speed side by side."""
        return max(self.operations / rates.operations, self.bytes / rates.bytes)


def one_pass(graph: StructureGraph) -> Need:
    """The need of one pass of any semiring over 8-byte numbers.

    A pruned operator adds once for each of its edges; a dense one, and one without weights, adds once for
    each element that it reads or writes. Every element is read or written once, and so is the position of
    each weight that is not zero in a pruned operator.
    """
    operations = moved = 0.0
    for op, edges in zip(graph.operators, graph.operator_edges, strict=True):
        elements = op.source.numel + op.target.numel
        pruned = op.weight is not None and not getattr(op, "dense", False)
        operations += edges if pruned else elements
        moved += _NUMBER * elements
        if pruned and op.weight is not None and not op.weight.tensor.is_meta:
            moved += _ENTRY * int(op.weight.tensor.count_nonzero())
    return Need(operations, moved)


def rates() -> Rates:
    """Measured: a float64 matrix product that fits the cache, and a copy that does not. Some 0.5 seconds."""
    import torch

    n = 512
    a, b = (torch.rand(n, n, dtype=torch.float64) for _ in range(2))
    source = torch.zeros(1 << 25, dtype=torch.float64)
    target = torch.empty_like(source)
    return Rates(n**3 / _best(lambda: a @ b), 2 * _NUMBER * source.numel() / _best(lambda: target.copy_(source)))


def _best(work: Callable[[], object], rounds: int = 5) -> float:
    work()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)
