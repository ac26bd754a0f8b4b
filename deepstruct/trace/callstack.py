"""The calls of a record: which modules and composite functions are running."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from ..errors import TraceError
from .opgraph import Call, Ref
from .record import Record
from .tree import Opaque, describe


class CallStack:
    """Opens and closes the calls of a record. `paths` has the qualified names of modules, by id."""

    def __init__(self, record: Record, model: nn.Module) -> None:
        self.record = record
        self.paths = {id(module): path for path, module in model.named_modules()}
        self._repeats: dict[int, int] = {}

    def describe(self, tree: Any) -> Any:
        return describe(tree, self._described)

    def _described(self, tensor: torch.Tensor) -> Any:
        try:
            return Ref(self.record.ref(tensor))
        except (RuntimeError, NotImplementedError, TraceError):
            # tensors without a storage of their own: inside vmap, wrapper subclasses
            return Opaque(f"{type(tensor).__name__} of shape {tuple(tensor.shape)}")

    def path_of(self, module: nn.Module) -> str:
        path = self.paths.get(id(module))
        if path is None:  # held outside the module tree (in a list, a closure, another object)
            parent = self.record.current_path()
            path = f"{parent}.<{type(module).__name__}>" if parent else f"<{type(module).__name__}>"
            self.paths[id(module)] = path
        return path

    def enter_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        repeat = self._repeats.get(id(module), 0)
        self._repeats[id(module)] = repeat + 1
        name = type(module).__name__
        return self._enter("module", self.path_of(module), name, module, args, kwargs, repeat)

    def enter_function(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        return self._enter("function", self.record.current_path(), name, None, args, kwargs, 0)

    def _enter(
        self,
        kind: Literal["module", "function"],
        path: str,
        name: str,
        module: nn.Module | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        repeat: int,
    ) -> int:
        calls = self.record.graph.calls
        parent = self.record.stack[-1] if self.record.stack else None
        depth = 0
        outer = parent
        while outer is not None and calls[outer].kind == "function":
            outer = calls[outer].parent
        if outer is not None:
            depth = calls[outer].depth + 1
        seen = (self.describe(tuple(args)), self.describe(dict(kwargs)))
        start = len(self.record.graph.ops)
        index = len(calls)
        calls.append(Call(index, kind, path, name, module, parent, depth, start, start, *seen, None, repeat))
        self.record.stack.append(index)
        return index

    def leave(self, index: int, output: Any) -> None:
        call = self.record.graph.calls[index]
        call.output = self.describe(output)
        self.unwind(index)

    def unwind(self, index: int) -> None:
        """Closes a call, and those inside it that an exception left open."""
        while self.record.stack and self.record.stack[-1] >= index:
            self.record.graph.calls[self.record.stack.pop()].stop = len(self.record.graph.ops)
