"""Reads a trace from its first operation to its last and lets rules wire the units."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from deepstruct.errors import DeepstructError, StructureError, UnknownOpError
from deepstruct.plugin.guard import untouched
from deepstruct.structure.builder import Builder
from deepstruct.structure.discarded import discarded_averages
from deepstruct.structure.node import LOOKUPS, Arg, Node, Values, is_pointwise, refs
from deepstruct.structure.rules.base import Rule
from deepstruct.structure.rules.dispatch import Dispatcher
from deepstruct.structure.rules.hand_norm import is_hand_written_norm, read_norm
from deepstruct.structure.rules.reindex import VIEWS
from deepstruct.structure.settings import Settings
from deepstruct.structure.signal import Signal
from deepstruct.trace.interpret import execute
from deepstruct.trace.opgraph import Call, Op, Ref

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph

Progress = Callable[[str, int, int], None]


class Reader:
    """One pass over a trace.

    After `run`, `builder` has the spaces and operators, and `signals` the index map of every value that is
    still needed (the model's outputs).
    """

    def __init__(
        self, graph: OpGraph, settings: Settings, dispatcher: Dispatcher, progress: Progress | None = None
    ) -> None:
        self.graph, self.settings, self.dispatcher = graph, settings, dispatcher
        self.builder = Builder(settings)
        self.values = Values(graph)
        self.signals: dict[int, Signal | None] = {}
        self.progress = progress
        self.unknown: list[tuple[str, str]] = []  # (op, module path) wired all to all
        self.norms: list[int] = []  # calls read as normalizations that are written by hand
        self._hidden: dict[int, str] = {}  # values inside a call that a rule took as a whole
        self._outputs = {id for _, id in graph.outputs}
        self._discarded = discarded_averages(graph)
        self._passed = {id: call.start for call in graph.calls for id in refs((call.args, call.kwargs))}
        self._starts: dict[int, list[Call]] = defaultdict(list)
        for call in graph.calls:
            if call.stop > call.start:
                self._starts[call.start].append(call)
        for calls in self._starts.values():
            calls.sort(key=lambda c: (-c.stop, c.index))  # outermost first

    def run(self) -> Builder:
        """Read everything. Raises UnknownOpError or StructureError, with op and module path."""
        self._make_sources()
        last = self._last_uses()
        position, total = 0, len(self.graph.ops)
        while position < total:
            self.builder.position = position
            taken = self._try_calls(position)
            if taken is None:
                self.read_op(self.graph.ops[position])
                taken = position + 1
            for index in range(position, taken):
                for id in last.get(index, ()):
                    self.signals.pop(id, None)
            position = taken
            if self.progress is not None:
                self.progress("structure", position, total)
        return self.builder

    def _make_sources(self) -> None:
        for id in self.graph.inputs:
            value = self.graph.values[id]
            if value.dtype.is_floating_point or value.dtype.is_complex:
                self.builder.where = ("", "input", 0)
                self.signals[id] = self.builder.source(value.shape, value.name or "input", value=id)
            else:
                self.signals[id] = None

    def _last_uses(self) -> dict[int, list[int]]:
        """Op index -> values that no later op or output reads."""
        keep = self._outputs
        last: dict[int, int] = {}
        for op in self.graph.ops:
            for id in refs((op.args, op.kwargs)):
                last[id] = op.index
        for call in self.graph.calls:  # a rule may bind the whole call and read its inputs at its start
            for id in refs((call.args, call.kwargs)):
                last[id] = max(last.get(id, -1), call.start)
        ends: dict[int, list[int]] = defaultdict(list)
        for id, index in last.items():
            if id not in keep:
                ends[index].append(id)
        return ends

    # -- calls

    def _try_calls(self, position: int) -> int | None:
        for call in self._starts.get(position, ()):
            if call.kind == "module" and call.module is not None:
                rule = self.dispatcher.for_module(call.module, call.path)
            else:
                rule = self.dispatcher.for_function(call.name)
            norm = rule is None and call.kind == "module" and is_hand_written_norm(self.graph, call, self.signals)
            if rule is None and not norm:
                continue
            out_ids = [leaf.id for leaf in _leaves(call.output) if isinstance(leaf, Ref)]
            if not out_ids:
                continue
            node = Node(
                call.name, self._wrap(call.args), self._wrap(call.kwargs),
                tuple(self.graph.values[i] for i in out_ids), None, call, self._users,
            )  # fmt: skip
            if not node.signals() and not self._looks_up(node):
                continue
            self.builder.where = (call.path, call.name, call.index)
            if norm:
                result: Any = read_norm(self, call)
                self.norms.append(call.index)
            else:
                assert rule is not None
                result = self._apply(rule, node, call.path)
                if result is NotImplemented:
                    continue
            self._bind(out_ids, result, node, call.path)
            self._expose(call)
            inside = {o for op in self.graph.ops[call.start : call.stop] for o in op.outputs if o is not None}
            for id in inside - set(out_ids):
                self._hidden[id] = call.path or call.name
            return call.stop
        return None

    def _expose(self, call: Call) -> None:
        """Signals of values inside a call that only rename its inputs, or its results before a last renaming.

        A view that was there before is recorded as the same value: what transposes the result of a batch-first
        layer back, or its input once more, reads a value from inside of it.
        """
        ops = self.graph.ops[call.start : call.stop]
        made = [v for op in ops for v in op.outputs if v is not None and v not in self.signals]
        wanted = {v for v in made if self._used_after(v, call)}
        if not wanted:
            return
        moves = [op for op in ops if op.name in VIEWS or op.name == "alias_read"]
        for op in moves:
            if next(refs(op.args)) in self.signals and not any(o in self.signals for o in op.outputs):
                self.read_op(op)
        for op in reversed(moves):
            inner, out = next(refs(op.args)), op.outputs[0] if len(op.outputs) == 1 else None
            signal = self.signals.get(out) if out is not None else None
            shape = self.graph.values[inner].shape
            missing = inner in wanted and inner not in self.signals
            if missing and signal is not None and math.prod(shape) == math.prod(signal.shape):
                self.signals[inner] = signal.mapped(_undone(op, shape))

    def _used_after(self, id: int, call: Call) -> bool:
        """Whether a value from inside a call is used after it."""
        users = self.graph.users[id]
        passed = self._passed.get(id, -1) >= call.stop
        return passed or id in self._outputs or bool(users and users[-1] >= call.stop)

    # -- operations

    def read_op(self, op: Op) -> None:
        """Find the rule of one operation and bind what it returns."""
        call = self.graph.calls[op.call]
        module = self._module_of(call)
        self.builder.where = (module.path, op.name, module.index)
        outs = tuple(None if o is None else self.graph.values[o] for o in op.outputs)
        node = Node(op.name, self._wrap(op.args), self._wrap(op.kwargs), outs, op, call, self._users)
        ids = list(op.outputs)
        idle = not node.signals() and not (op.name in LOOKUPS and self._looks_up(node))
        if idle or op.index in self._discarded:
            for id in ids:
                if id is not None:
                    self.signals[id] = None
            return
        if all(v is None or not (v.dtype.is_floating_point or v.dtype.is_complex) for v in outs):
            for id in ids:  # integers and booleans are control
                if id is not None:
                    self.signals[id] = None
            return
        rule = self.dispatcher.for_op(op.name)
        result: Any = NotImplemented
        if rule is not None:
            result = self._apply(rule, node, module.path)
        if result is NotImplemented and is_pointwise(op):
            generic = self.dispatcher.for_op("<pointwise>")
            result = NotImplemented if generic is None else self._apply(generic, node, module.path)
        if result is NotImplemented:
            result = self._unknown(op, node, module.path)
        self._bind(ids, result, node, module.path)

    def _unknown(self, op: Op, node: Node, path: str) -> Any:
        where = f"in module {path!r}" if path else "in the model's own forward"
        if self.settings.on_unknown == "error":
            shapes = [a.shape for a in node.tensors()]
            raise UnknownOpError(
                f"no rule says how {op.target} ({where}, tensor shapes {shapes}) wires units. "
                f"A plugin supplies one by the hook deepstruct_rules: Rule({op.name!r}, apply); "
                'on_unknown="dense" wires it all to all and says so.'
            )
        self.unknown.append((op.name, path))
        return [
            self.builder.dense(node.signals(), v.shape)
            if v is not None and (v.dtype.is_floating_point or v.dtype.is_complex)
            else None
            for v in node.out
        ]

    # -- helpers

    def _apply(self, rule: Rule, node: Node, path: str) -> Any:
        provider = self.dispatcher.foreign(rule)
        source = f" (the rule is from plugin {provider})" if provider else ""
        try:
            if not provider:
                return rule.apply(self.builder, node)
            with untouched(node.module if node.call is not None else None, self._weights()):
                return rule.apply(self.builder, node)
        except DeepstructError as error:
            where = f"module {path!r}" if path else "the model's own forward"
            if where in str(error):
                raise
            raise type(error)(f"{error} ({rule.name}, in {where}){source}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may call sys.exit()
            shapes = [a.shape for a in node.tensors()]
            raise StructureError(
                f"the rule for {rule.name} failed in module {path!r} on tensors of shapes {shapes}: "
                f"{type(error).__name__}: {error}{source}"
            ) from error

    def _weights(self) -> dict[str, torch.Tensor]:
        """The tensors of the model by name."""
        named = {**self.graph.parameters, **self.graph.buffers}
        data = {name: self.graph.values[id].data for name, id in named.items()}
        return {name: tensor for name, tensor in data.items() if tensor is not None}

    def _bind(self, ids: list[int | None] | list[int], result: Any, node: Node, path: str) -> None:
        many = list(result) if isinstance(result, (list, tuple)) else [result]
        many += [None] * (len(ids) - len(many))
        for id, signal in zip(ids, many, strict=False):
            if id is None:
                continue
            if signal is not None and signal.shape != self.graph.values[id].shape:
                raise StructureError(
                    f"the rule for {node.name} in module {path!r} gave a signal of shape {signal.shape} "
                    f"for a tensor of shape {self.graph.values[id].shape}"
                )
            self.signals[id] = signal

    def _wrap(self, tree: Any) -> Any:
        return pytree.tree_map(
            lambda leaf: self._arg(leaf.id) if isinstance(leaf, Ref) else leaf,
            tree, is_leaf=lambda leaf: isinstance(leaf, Ref),
        )  # fmt: skip

    def _arg(self, id: int) -> Arg:
        if id in self._hidden and id not in self.signals:
            raise StructureError(
                f"a value from inside {self._hidden[id]!r} is used outside of it, but a rule took that call as a whole"
            )
        return Arg(id, self.graph.values[id], self.signals.get(id), self.values)

    def _looks_up(self, node: Node) -> bool:
        """Whether integers that hang on the input look something up in a table of numbers."""
        tensors = node.tensors()
        ints = any(a.from_input and not a.data_dependent and not a.dtype.is_floating_point for a in tensors)
        return ints and any(a.dtype.is_floating_point for a in tensors)

    def _module_of(self, call: Call) -> Call:
        while call.kind != "module" and call.parent is not None:
            call = self.graph.calls[call.parent]
        return call

    def _users(self, id: int) -> list[Op]:
        return [self.graph.ops[i] for i in self.graph.users[id]]


def _undone(op: Op, shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The inverse of a view that keeps all elements: from tensors of its result's shape to the given one."""
    numbers = torch.arange(math.prod(shape)).view(shape)
    moved = execute(op, [numbers, *op.args[1:]], op.kwargs)[0]
    assert moved is not None
    strides = list(moved.stride())
    order = sorted(range(moved.dim()), key=lambda d: -strides[d])
    straight = moved.permute(order)
    if straight.is_contiguous():  # axes in another order: the inverse is a view as well
        return lambda t: t.permute(order).reshape(shape)
    places = torch.argsort(moved.reshape(-1))
    return lambda t: t.reshape(-1)[places].view(shape)


def _leaves(tree: Any) -> list[Any]:
    return pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, Ref))
