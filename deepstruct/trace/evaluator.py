"""Real values in the middle of a fake pass, for what depends on data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from . import interpret
from .leaves import Leaves
from .opgraph import Op
from .record import Record


class Evaluator:
    """Evaluates slices of the record so far, for the example inputs, within `byte_budget` bytes.

    Only the ops that the wanted values need are run. Results are kept for later slices, up to a quarter
    of the budget. `held` keeps tensors alive whose storage stands for a value.
    """

    def __init__(self, record: Record, leaves: Leaves, byte_budget: int) -> None:
        self.record = record
        self.leaves = leaves
        self.byte_budget = byte_budget
        self.held: list[torch.Tensor] = []
        self._known: dict[int, torch.Tensor] = {}
        self._known_bytes = 0
        self._unsettled: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def evaluate(self, ids: Sequence[int]) -> dict[int, torch.Tensor]:
        """Real values of `ids`. Raises CapacityError over budget, TraceError for weights without data."""
        graph = self.record.graph
        with _disable_current_modes(), torch.no_grad():
            real = interpret.run(graph.values, graph.ops, ids, self._known, self.byte_budget, seeded=True)
        for v, tensor in real.items():
            self._remember(v, tensor)
        return real

    def run(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mutates: tuple[int | str, ...],
    ) -> Any:
        """Runs an operation on the real values of its arguments; tensors come back as fake twins."""
        op = Op(0, func, name, args, kwargs, (), 0, mutates)
        real = self.evaluate([*interpret.refs_of(args), *interpret.refs_of(kwargs)])
        with _disable_current_modes(), torch.no_grad():
            result = interpret.execute_raw(
                op,
                interpret.substitute(args, real.__getitem__),
                interpret.substitute(kwargs, real.__getitem__),
            )
        return interpret.map_result(result, self._twin)

    def _twin(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self.leaves.fake_mode is not None
        twin = self.leaves.fake_mode.from_tensor(tensor)
        self._unsettled[id(twin)] = (twin, tensor)
        return twin

    def settle(self, tensor: torch.Tensor, v: int) -> None:
        """Tells which value the result of `run` became, so that its real data is not computed again."""
        pair = self._unsettled.pop(id(tensor), None)
        if pair is not None:
            self._remember(v, pair[1])

    def _remember(self, v: int, tensor: torch.Tensor) -> None:
        if self.record.graph.values[v].producer is None or v in self._known:
            return
        self._known[v] = tensor
        self._known_bytes += tensor.numel() * tensor.element_size()
        while self._known_bytes > self.byte_budget // 4 and len(self._known) > 1:
            dropped = self._known.pop(next(iter(self._known)))
            self._known_bytes -= dropped.numel() * dropped.element_size()
