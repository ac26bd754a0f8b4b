"""What a rule is handed: one recorded operation or call, with its arguments ready to use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from deepstruct.errors import DeepstructError
from deepstruct.structure.operators import WeightRef
from deepstruct.structure.signal import Signal, constant
from deepstruct.trace.opgraph import Call, Op, Ref, Value

if TYPE_CHECKING:
    from deepstruct.trace import OpGraph

MODULUS = "modulus"
"""First in the keys of weights that are moduli of complex ones."""
LEVEL_CONSTANT, LEVEL_CONTROL, LEVEL_DATA = 0, 1, 2
_RANDOM = ("bernoulli", "rand", "randn", "randint", "randperm", "uniform", "normal", "exponential", "multinomial",
           "native_dropout", "rand_like", "randn_like", "log_normal", "geometric", "cauchy")  # fmt: skip
_CACHE_BYTES = 64 << 20
LOOKUPS = frozenset({
    "embedding", "index", "_unsafe_index", "index_select", "gather", "_embedding_bag", "_embedding_bag_forward_only",
})  # fmt: skip


class Values:
    """Real values and levels of what is no activation: constants, parameters, integers, masks."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.level, self.random = self._levels()
        self.stored = self._stored()
        self._cache: OrderedDict[int, torch.Tensor] = OrderedDict()
        self._cached_bytes = 0
        self._twins: dict[int, torch.Tensor] = {}
        self._moduli: dict[int, torch.Tensor] = {}

    def _levels(self) -> tuple[list[int], list[bool]]:
        graph = self.graph
        level, random = [LEVEL_CONSTANT] * len(graph.values), [False] * len(graph.values)
        for id in graph.inputs:
            float_input = graph.values[id].dtype.is_floating_point or graph.values[id].dtype.is_complex
            level[id] = LEVEL_DATA if float_input else LEVEL_CONTROL
        for op in graph.ops:
            ids = list(refs((op.args, op.kwargs)))
            top = max((level[i] for i in ids), default=LEVEL_CONSTANT)
            if op.name in LOOKUPS and top == LEVEL_CONTROL and any(_floating(graph.values[i].dtype) for i in ids):
                top = LEVEL_DATA  # rows that integers look up are sources of the graph
            chance = op.name in _RANDOM or any(random[i] for i in ids)
            for out in op.outputs:
                if out is not None:
                    level[out], random[out] = top, chance
        return level, random

    def _stored(self) -> list[bool]:
        """Which values are weights: constants, and parts of them that integers of any origin pick."""
        graph, stored = self.graph, [level == LEVEL_CONSTANT for level in self.level]
        for op in graph.ops:
            if op.name not in LOOKUPS and op.name not in _PICKED_MOVES:
                continue
            numbers = [i for i in refs((op.args, op.kwargs)) if _floating(graph.values[i].dtype)]
            if numbers and all(stored[i] for i in numbers):
                for out in op.outputs:
                    if out is not None:
                        stored[out] = True
        return stored

    def get(self, id: int) -> torch.Tensor:
        """The real tensor of a value, for the example input; computed from the slice of ops that it needs."""
        value = self.graph.values[id]
        if value.data is not None and value.data.layout == torch.strided:
            return value.data.detach()
        if id in self._cache:
            self._cache.move_to_end(id)
            return self._cache[id]
        tensor = (self.graph.evaluate([id])[id] if value.data is None else value.data).detach()
        if tensor.layout != torch.strided:  # rules read a sparse matrix as one with zeros
            tensor = tensor.to_dense()
        size = tensor.numel() * tensor.element_size()
        if size <= _CACHE_BYTES // 4:
            self._cache[id] = tensor
            self._cached_bytes += size
            while self._cached_bytes > _CACHE_BYTES:
                _, old = self._cache.popitem(last=False)
                self._cached_bytes -= old.numel() * old.element_size()
        return tensor

    def known(self, id: int) -> bool:
        """Whether real numbers are at hand: False for what hangs on meta or fake parameters."""
        value = self.graph.values[id]
        if value.data is not None:
            return has_values(value.data)
        return all(
            has_values(data) for leaf in self.leaves(id) if (data := self.graph.values[leaf].data) is not None
        )

    def leaves(self, id: int) -> frozenset[int]:
        """The inputs, parameters, buffers and constants that a value is computed from."""
        seen, stack, found = set(), [id], set()
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            producer = self.graph.values[here].producer
            if producer is None:
                found.add(here)
            else:
                op = self.graph.ops[producer]
                stack.extend(refs((op.args, op.kwargs)))
        return frozenset(found)

    def _without_values(self, id: int) -> torch.Tensor:
        """A value whose weights have no values, on the meta device: where it is a view of them, so is this."""
        value = self.graph.values[id]
        feeds = {leaf: self._twin(leaf) for leaf in self.leaves(id)}
        try:
            made = self.graph.interpret([id], feeds)[id]
        except DeepstructError:  # an op that needs numbers to know its shape: a tensor of its own, then
            return torch.empty(value.shape, device="meta")
        return made if made.is_meta else torch.empty(value.shape, device="meta")

    def _twin(self, leaf: int) -> torch.Tensor:
        """A meta tensor laid out like the data of a leaf, always the same one."""
        found = self._twins.get(leaf)
        if found is None:
            value = self.graph.values[leaf]
            shape, stride = value.shape, None
            if value.data is not None and value.data.layout == torch.strided:
                stride = value.data.stride()
            found = (
                torch.empty(shape, dtype=value.dtype, device="meta") if stride is None
                else torch.empty_strided(shape, stride, dtype=value.dtype, device="meta")
            )  # fmt: skip
            self._twins[leaf] = found
        return found

    def weight(self, id: int) -> WeightRef:
        """The stored weights behind a value; tied ones share their key. Complex ones are there by their moduli."""
        leaves = self.leaves(id)
        parameters = frozenset(i for i in leaves if self.graph.values[i].kind == "parameter")
        if not self.known(id):
            tensor = self._without_values(id)
            for leaf in parameters:
                if tensor.untyped_storage()._cdata == self._twin(leaf).untyped_storage()._cdata:
                    return WeightRef(("parameter", leaf), tensor)
            return WeightRef(("meta", parameters, tensor.shape), tensor, bool(parameters))
        tensor = self.get(id)
        for leaf in parameters:
            data = self.graph.values[leaf].data
            if data is None or data.layout != torch.strided:
                continue
            if data.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
                if tensor.is_complex():
                    return WeightRef((MODULUS, leaf), self._modulus(leaf, tensor))
                return WeightRef(("parameter", leaf), tensor)
        if tensor.is_complex():
            tensor = tensor.abs()
            return WeightRef((MODULUS, parameters or leaves, tensor.shape, tensor.stride()), tensor, bool(parameters))
        key = ("computed", parameters or leaves, tuple(tensor.shape), tensor.stride())
        return WeightRef(key, tensor, bool(parameters))


    def _modulus(self, leaf: int, view: torch.Tensor) -> torch.Tensor:
        """A view of a complex parameter, of the moduli; all views of one parameter share them."""
        data = self.graph.values[leaf].data
        assert data is not None
        if leaf not in self._moduli:
            self._moduli[leaf] = data.detach().abs()
        whole = self._moduli[leaf]
        if whole.stride() != data.stride() or whole.storage_offset():  # laid out anew
            return view.abs()
        return whole.as_strided(view.shape, view.stride(), view.storage_offset() - data.storage_offset())


_PICKED_MOVES = frozenset({
    "view", "_unsafe_view", "permute", "transpose", "t", "expand", "slice", "select", "unsqueeze", "squeeze", "clone",
    "_to_copy", "split", "split_with_sizes", "unbind",
})  # fmt: skip


@dataclass(frozen=True)
class Arg:
    """A tensor argument of a recorded operation.

    `signal` is the index map of an activation, and None for parameters, constants, integers and masks.
    """

    id: int
    value: Value
    signal: Signal | None
    _values: Values

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def data_dependent(self) -> bool:
        """Whether the value hangs on activations (not only on integers, parameters and constants)."""
        return self._values.level[self.id] == LEVEL_DATA

    @property
    def stored(self) -> bool:
        """Whether it is a weight: a constant, or the part of one that integers pick (an expert's matrix)."""
        return self.signal is None and self._values.stored[self.id]

    @property
    def from_input(self) -> bool:
        return self._values.level[self.id] != LEVEL_CONSTANT

    @property
    def random(self) -> bool:
        """Whether it was drawn at random in the pass."""
        return self._values.random[self.id]

    def known(self) -> bool:
        """Whether its numbers can be computed and mean something (no random draw, no meta tensor)."""
        return not self.random and self._values.known(self.id)

    def tensor(self) -> torch.Tensor:
        """Its real value for the example input."""
        return self._values.get(self.id)

    def weight(self) -> WeightRef:
        return self._values.weight(self.id)

    def zeros(self) -> torch.Tensor | None:
        """Where a constant is exactly zero (boolean); None where it is nowhere, or its value is not known."""
        if not self.known():
            return None
        zeros = self.tensor() == 0
        return zeros if bool(zeros.any()) else None

    def table(self) -> Signal | torch.Tensor:
        """The signal, or the index map of a constant."""
        if self.signal is not None:
            return self.signal
        if not self.known():
            return torch.full(self.shape, -1, dtype=torch.int64)
        return constant(self.tensor())


@dataclass(frozen=True)
class Node:
    """A recorded operation or call, as a rule sees it: tensors are `Arg`, everything else is as it was."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: tuple[Value | None, ...]  # flat tensors that it returned
    op: Op | None = None
    call: Call | None = None
    users: Callable[[int], list[Op]] = lambda _: []

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def tensors(self) -> list[Arg]:
        """All tensor arguments, in order, nested ones included."""
        return [a for a in pytree.tree_leaves((self.args, self.kwargs), is_leaf=_is_arg) if isinstance(a, Arg)]

    def signals(self) -> list[Signal]:
        return [a.signal for a in self.tensors() if a.signal is not None]

    @property
    def module(self) -> Any:
        return None if self.call is None else self.call.module


def refs(tree: Any) -> Iterator[int]:
    """The value ids in recorded arguments."""
    for leaf in pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, Ref)):
        if isinstance(leaf, Ref):
            yield leaf.id


def is_pointwise(op: Op) -> bool:
    """Whether an operation works element by element, as its tags say, or those of a variant of the same name."""
    return _tagged(op.target, op.name)


@lru_cache(maxsize=4096)
def _tagged(target: Any, name: str) -> bool:
    if torch.Tag.pointwise in getattr(target, "tags", ()):
        return True
    packet = getattr(torch.ops.aten, name, None)  # in-place variants miss the tag of the plain one
    if packet is None or "::" in name:
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def _is_arg(x: Any) -> bool:
    return isinstance(x, Arg)


def _floating(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def has_values(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers: it is neither on the meta device nor a fake one."""
    from torch._subclasses.fake_tensor import FakeTensor

    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
