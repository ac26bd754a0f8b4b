"""What a structure rule is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from deepstruct.structure.signal import Signal

if TYPE_CHECKING:
    from deepstruct.structure.builder import Builder
    from deepstruct.structure.node import Node

Result = Signal | None | Sequence[Signal | None]
Apply = Callable[["Builder", "Node"], Any]
BUILTIN = -100


@dataclass(frozen=True)
class Rule:
    """How one op, composite function or layer type wires units.

    Args:
        target: the base name of an ATen op ("add", "convolution"), the name of a composite function
            ("lstm"), or a module type: the class, or "package.module:Class" so that nothing is imported.
        apply: called with the builder and the node; returns the signal of each returned tensor, in flat
            order (None: control or constant, no units), or a single signal. `NotImplemented` declines,
            and the operations inside are read instead.
        kind: what `target` names.
        priority: of two rules for one target the higher wins; built-ins have -100.
    """

    target: str | type
    apply: Apply
    kind: Literal["op", "function", "module"] = "op"
    priority: int = 0

    @property
    def name(self) -> str:
        target = self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"
        return f"{self.kind} {target}"


class RuleSet:
    """Collects the built-in rules of one file."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def _add(
        self, kind: Literal["op", "function", "module"], targets: Sequence[str | type]
    ) -> Callable[[Apply], Apply]:
        def register(apply: Apply) -> Apply:
            self.rules += [Rule(t, apply, kind, BUILTIN) for t in targets]
            return apply

        return register

    def op(self, *names: str) -> Callable[[Apply], Apply]:
        return self._add("op", names)

    def function(self, *names: str) -> Callable[[Apply], Apply]:
        return self._add("function", names)

    def module(self, *types: str | type) -> Callable[[Apply], Apply]:
        return self._add("module", types)
