"""OpGraph: the whole record of a forward pass, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from ..errors import InputError
from . import interpret
from .opgraph import Call, Op, Ref, Value
from .tree import leaves


@dataclass(eq=False)
class OpGraph:
    """The record of one forward pass.

    `inputs` are the value ids of the input tensors, named like the arguments of `forward` ("x",
    "batch.image", "args.0"); `output` is what the model returned, with `Ref` for tensors (mappings and
    dataclasses as dicts). `parameters` and `buffers` map every qualified name, tied aliases included,
    to a value id. `mode` says whether the pass ran on fake tensors (shapes only) or on real ones, and
    `notes` what a reader should know about the record.
    """

    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    output: Any = None
    mode: Literal["fake", "real"] = "fake"
    notes: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, int] = field(default_factory=dict)
    byte_budget: int = 1 << 30
    _arguments: tuple[tuple[Any, ...], dict[str, Any]] = field(default=((), {}), repr=False)
    _forward: Any = field(default=None, repr=False)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[tuple[str, int]]:
        """(name, value id) of every output tensor: "output" for a single one, else its path."""
        if isinstance(self.output, Ref):
            return [("output", self.output.id)]
        return [(name, leaf.id) for name, leaf in leaves(self.output) if isinstance(leaf, Ref)]

    @cached_property
    def input_dependent(self) -> list[bool]:
        """For each value: whether it depends on any input of the model."""
        depends = [value.kind == "input" for value in self.values]
        for op in self.ops:
            if any(depends[v] for v in op_reads(op)):
                for v in op.outputs:
                    if v is not None:
                        depends[v] = True
        return depends

    @cached_property
    def users(self) -> list[list[int]]:
        """For each value: the indices of the ops that read it, in order."""
        users: list[list[int]] = [[] for _ in self.values]
        for op in self.ops:
            for v in dict.fromkeys(op_reads(op)):
                users[v].append(op.index)
        return users

    @cached_property
    def last_use(self) -> list[int | None]:
        """For each value: the last op that reads it (None: no op does)."""
        return [used[-1] if used else None for used in self.users]

    def depends_on(self, value: int) -> bool:
        """Whether the value depends on any input of the model."""
        return self.input_dependent[value]

    def path(self, op: Op) -> str:
        """The path of the module that issued the op."""
        return self.calls[op.call].path if self.calls else ""

    # -- running ---------------------------------------------------------------------------------

    def interpret(
        self,
        wanted: Sequence[int],
        feeds: Mapping[int, torch.Tensor] | None = None,
        byte_budget: int | None = None,
    ) -> dict[int, torch.Tensor]:
        """Values of `wanted`, with `feeds` in the place of what was recorded for those ids.

        Any value can be fed: inputs, parameters, or results of ops. Runs under the grad mode of the
        caller, so the result can be differentiated. Leaves that are not fed have their recorded data.
        """
        return interpret.run(self.values, self.ops, wanted, feeds or {}, byte_budget)

    def replay(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the recorded ops on the given inputs (none: the recorded ones), without gradients.

        Arguments as the model takes them; their tensors must have the recorded shapes. Returns what
        the model returned, with mappings and dataclasses as dicts. Python control flow is that of the
        recorded pass. Raises InputError for inputs that do not fit.
        """
        feeds = self.bind(*args, **kwargs) if args or kwargs else {}
        wanted = [v for _, v in self.outputs]
        with torch.no_grad():
            results = interpret.run(self.values, self.ops, list(dict.fromkeys(wanted)), feeds)
        return interpret.substitute(self.output, results.__getitem__)

    def bind(self, *args: Any, **kwargs: Any) -> dict[int, torch.Tensor]:
        """Value ids of the inputs -> tensors of the given arguments, checked against the record."""
        from .inputs import named_tensors

        given = named_tensors(self._forward, args, kwargs)
        names = [self.values[v].name for v in self.inputs]
        if [name for name, _ in given] != names:
            raise InputError(
                f"the recorded inputs are {names}, the given ones {[name for name, _ in given]}; "
                "pass the same arguments as for the trace"
            )
        feeds = {}
        for v, (name, tensor) in zip(self.inputs, given, strict=True):
            recorded = self.values[v]
            if tuple(tensor.shape) != recorded.shape or tensor.dtype != recorded.dtype:
                raise InputError(
                    f"input {name!r} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; recorded were "
                    f"{recorded.shape} and {recorded.dtype}: trace the model again for another shape"
                )
            feeds[v] = tensor
        return feeds

    def evaluate(self, ids: Sequence[int], byte_budget: int | None = None) -> dict[int, torch.Tensor]:
        """Real values of `ids` for the example inputs: {id: tensor}.

        Computes only the ops that they need and frees intermediate results after their last use.
        Raises CapacityError when that takes more than `byte_budget` bytes at one time (None: the
        budget of the trace), and TraceError when weights that are needed have no data.
        """
        budget = self.byte_budget if byte_budget is None else byte_budget
        with torch.no_grad():
            return interpret.run(self.values, self.ops, list(dict.fromkeys(ids)), {}, budget, seeded=True)

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the model was traced with: (args, kwargs)."""
        return self._arguments

    def __repr__(self) -> str:
        name = self.calls[0].name if self.calls else "?"
        return (
            f"OpGraph({name}: {len(self.ops)} ops, {len(self.values)} values, {len(self.calls)} calls, "
            f"mode={self.mode!r}, {len(self.notes)} notes)"
        )


def op_reads(op: Op) -> list[int]:
    """Value ids that an op reads."""
    return [*interpret.refs_of(op.args), *interpret.refs_of(op.kwargs)]
