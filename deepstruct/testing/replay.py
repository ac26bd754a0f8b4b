"""A trace run again in double precision, with the derivative that the conventions of the graph ask for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepstruct.structure.node import LEVEL_DATA, Values
from deepstruct.structure.rules.hand_norm import REDUCTIONS
from deepstruct.structure.rules.pointwise import feeds_product
from deepstruct.structure.settings import Settings
from deepstruct.testing.conventions import BATCH_NORMS, NORMS, SAME, SOFTMAX, instance_norm
from deepstruct.testing.support import OracleError
from deepstruct.testing.surrogates import SURROGATES, Here
from deepstruct.trace import OpGraph, execute, refs_of, substitute
from deepstruct.trace.interpret import leaf_data, needed_ops
from deepstruct.trace.opgraph import Op

_BY_CONDITION = frozenset({"where", "masked_fill"})  # a condition that does not hang on activations stays as it is
_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}


class Replay:
    """Runs the recorded operations so that the results can be differentiated by the graph's sources.

    Args:
        record: the trace.
        settings: whose normalization convention counts.
        sources: values that the derivative is taken by: inputs, or results of embedding lookups.
        norms: calls (by index) that the graph read as normalizations written by hand.
        smooth: replace operations that hide edges by smooth ones; integers and conditions that hang on
            activations are then those of the recorded pass.
    """

    def __init__(
        self, record: OpGraph, settings: Settings, sources: Sequence[int], norms: Collection[int] = (), *,
        smooth: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0,
    ) -> None:  # fmt: skip
        self.record, self.settings, self.smooth, self.dtype = record, settings, smooth, dtype
        self.sources = list(sources)
        self.generator = torch.Generator().manual_seed(seed)
        self.wanted = list(dict.fromkeys(id for _, id in record.outputs))
        self.order = needed_ops(record.values, record.ops, self.wanted, {})
        facts = Values(record)
        self._level, self._random = facts.level, facts.random
        detached = [record.calls[k] for k in norms]
        detached += [c for c in record.calls if c.kind == "function" and c.name == "rms_norm"]
        if settings.normalization != "one_to_one":
            detached = []
        self._detached = {
            op.index for call in detached for op in record.ops[call.start : call.stop] if op.name in REDUCTIONS
        }
        self._known: dict[int, torch.Tensor] = {}
        self._fixed = self._recorded() if smooth else {}

    def _recorded(self) -> dict[int, torch.Tensor]:
        """Integers and conditions that hang on activations or were drawn, as in the recorded pass."""
        used = {v for k in self.order for v in refs_of((self.record.ops[k].args, self.record.ops[k].kwargs))}
        ids = [
            v for v in sorted(used.union(self.wanted))
            if (self._level[v] == LEVEL_DATA or self._random[v]) and not _floating(self.record.values[v].dtype)
        ]  # fmt: skip
        return self.record.evaluate(ids, byte_budget=64 << 30) if ids else {}

    def run(self, inputs: dict[int, torch.Tensor] | None = None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(outputs, sources) as tensors of one autograd graph; `inputs` replaces recorded inputs by value id."""
        known: dict[int, torch.Tensor] = {}
        for id in self.record.inputs:
            given = inputs[id] if inputs and id in inputs else leaf_data(self.record.values[id]).detach()
            known[id] = self._cast(given)
            if id in self.sources:
                known[id] = known[id].clone().requires_grad_()
        left = self._uses()
        self._known = known
        with torch.enable_grad():
            for index in self.order:
                op = self.record.ops[index]
                for v, result in zip(op.outputs, self._results(op), strict=False):
                    if v is None or result is None:
                        continue
                    if v in self.sources:
                        result = result.detach().clone().requires_grad_()
                    # a tensor that is made without a dtype has the default one
                    known[v] = self._fixed.get(v, self._cast(result))
                for v in {*refs_of(op.args), *refs_of(op.kwargs)}:
                    left[v] -= 1
                    if left[v] == 0:
                        known.pop(v, None)
        outputs = [self._get(v) for v in self.wanted]
        for (name, _), out in zip(self.record.outputs, outputs, strict=False):
            if _floating(out.dtype) and not bool(out.isfinite().all()):
                raise OracleError(f"{name} has values that are not finite in the replay: choose another seed or input")
        return outputs, [known[v] for v in self.sources]

    def _uses(self) -> dict[int, int]:
        """How many operations read a value; one more for what has to stay."""
        uses: dict[int, int] = dict.fromkeys([*self.wanted, *self.sources], 1)
        for index in self.order:
            op = self.record.ops[index]
            for v in {*refs_of(op.args), *refs_of(op.kwargs)}:
                uses[v] = uses.get(v, 0) + 1
        return uses

    def _get(self, v: int) -> torch.Tensor:
        if v not in self._known:
            self._known[v] = self._cast(leaf_data(self.record.values[v]).detach())
        return self._known[v]

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype.is_complex:
            return tensor.to(_COMPLEX[self.dtype])
        return tensor.to(self.dtype) if tensor.dtype.is_floating_point else tensor

    def _results(self, op: Op) -> Sequence[torch.Tensor | None]:
        if all(v is None or v in self._fixed for v in op.outputs):
            return [None if v is None else self._fixed[v] for v in op.outputs]
        args, kwargs = (pytree.tree_map(self._wide, substitute(t, self._get)) for t in (op.args, op.kwargs))
        variant = self._convention(op, args)
        if variant is not None:
            return variant(*args, **kwargs)
        if self.smooth and op.name in SURROGATES and self._hides(op):
            ids = op.outputs
            shapes = [() if v is None else self.record.values[v].shape for v in ids]
            fixed = [None if v is None else self._fixed.get(v) for v in ids]
            return SURROGATES[op.name](Here(op.name, shapes, self.generator, fixed), *args, **kwargs)
        results = execute(op, args, kwargs)
        if op.index in self._detached:
            return [None if r is None else r.detach() for r in results]
        if self.smooth and op.name == "_to_copy" and self._level[op.outputs[0] or 0] == LEVEL_DATA:
            before = self.record.values[refs_of(op.args)[0]].dtype
            if not _floating(before) and results[0] is not None and _floating(results[0].dtype):
                # a condition as a number: one that is zero nowhere
                return [torch.rand(results[0].shape, generator=self.generator, dtype=self.dtype) + 0.5]
        return results

    def _convention(self, op: Op, args: tuple[Any, ...]) -> Any:
        one_to_one = self.settings.normalization == "one_to_one"
        if op.name in SAME:
            return SAME[op.name]
        if op.name in NORMS and one_to_one:
            return NORMS[op.name]
        if op.name in BATCH_NORMS and one_to_one and op.args[5 if len(args) > 6 else 3] is True:
            return instance_norm
        if op.name in SOFTMAX:
            users = self.record.users
            if one_to_one or feeds_product(op.outputs[0], lambda v: [self.record.ops[k] for k in users[v]]):
                return SOFTMAX[op.name]
        return None

    def _hides(self, op: Op) -> bool:
        """Whether an operation may hide edges here: a condition from masks and constants is part of the model."""
        ids, out = refs_of(op.args), op.outputs[0]
        if out is None or not _floating(self.record.values[out].dtype):
            return False
        if op.name in _BY_CONDITION:
            condition = op.args[1 if op.name == "masked_fill" else 0]
            return self._level[condition.id] == LEVEL_DATA
        if not ids:
            return True
        return any(self._level[v] == LEVEL_DATA for v in ids) or self._reads_source(ids)

    def _reads_source(self, ids: Sequence[int]) -> bool:
        return any(self._known[v].requires_grad for v in ids if v in self._known)

    def _wide(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype) and _floating(leaf):
            return _COMPLEX[self.dtype] if leaf.is_complex else self.dtype
        return leaf


def _floating(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex
