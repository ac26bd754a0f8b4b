"""The record under construction: values, ops and calls, with mutation made functional."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import TraceError
from .alias import alias_read, alias_write, covers
from .graph import OpGraph, op_reads
from .opgraph import Op, Ref, Value, ValueKind
from .storages import Key, Storage, StorageTable, key_of

_aten = torch.ops.aten
_PARTS = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}


class Record:
    """Grows an `OpGraph` and knows, at any time, the value that a tensor holds."""

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.storages = StorageTable()
        self.stack: list[int] = []  # the open calls
        self.on_foreign: Callable[[torch.Tensor], int] | None = None
        self._kept: list[torch.Tensor] = []
        self._depends: list[bool] = []
        self._depends_upto = 0

    # -- values and ops --------------------------------------------------------------------------

    def value(
        self, tensor: torch.Tensor, kind: ValueKind, name: str = "", producer: int | None = None
    ) -> int:
        return self._value(tuple(int(n) for n in tensor.shape), tensor.dtype, kind, name, producer)

    def _value(
        self, shape: tuple[int, ...], dtype: torch.dtype, kind: ValueKind, name: str, producer: int | None
    ) -> int:
        values = self.graph.values
        values.append(Value(len(values), shape, dtype, kind, name, producer))
        return len(values) - 1

    def op(
        self,
        target: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[int | None],
        mutates: tuple[int | str, ...] = (),
    ) -> int:
        """Appends an op; its outputs must be fresh values."""
        ops = self.graph.ops
        index = len(ops)
        for v in outputs:
            if v is not None:
                self.graph.values[v].producer = index
        call = self.stack[-1] if self.stack else 0
        ops.append(Op(index, target, name, args, kwargs, tuple(outputs), call, mutates))
        return index

    def derive(
        self,
        target: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        options: dict[str, Any] | None = None,
    ) -> int:
        """Appends an op of ours with one result, and returns its value."""
        v = self._value(tuple(shape), dtype, "op", "", None)
        self.op(target, name, args, options or {}, [v])
        return v

    def leaf(
        self, tensor: torch.Tensor, kind: ValueKind, name: str = "", data: torch.Tensor | None = None
    ) -> int:
        """A value that no op produces. Tied tensors (same storage and geometry) get the same value."""
        storage = self.storages.find(tensor)
        if storage is None:
            storage = self.storages.create(tensor, foreign=True)
        key = self.key(tensor)
        known = storage.current.get(key)
        if known is not None:
            return known
        v = self.value(tensor, kind, name)
        self.graph.values[v].data = tensor if data is None else data
        storage.add_root(key, v)
        return v

    # -- what a tensor holds ---------------------------------------------------------------------

    def key(self, tensor: torch.Tensor) -> Key:
        if tensor.layout == torch.strided:
            return key_of(tensor)
        return Key(tuple(tensor.shape), (), 0, tensor.dtype)

    def ref(self, tensor: torch.Tensor) -> int:
        """The value that `tensor` holds now; may append an alias read, or register a constant."""
        storage = self.storages.find(tensor)
        if storage is None:
            if self.on_foreign is None:
                return self.leaf(tensor, "constant")
            return self.on_foreign(tensor)
        key = self.key(tensor)
        v = storage.current.get(key)
        return self.read(storage, key) if v is None else v

    def produced(self, tensor: torch.Tensor) -> tuple[Storage, Key, int | None]:
        """Where the result of an op lies, and the value known for it (when the op is a no-op view)."""
        storage = self.storages.find(tensor)
        if storage is None:
            storage = self.storages.create(tensor)
            if tensor.layout != torch.strided:
                self._kept.append(tensor)
        key = self.key(tensor)
        return storage, key, storage.current.get(key)

    def read(self, storage: Storage, key: Key) -> int:
        """Reads a geometry from the base of its storage."""
        base_key, base = self._base(storage, key)
        direct = _same_reading(key, base_key)
        if direct:
            v = self._alias_read(base, base_key, key)
        elif key.dtype == base_key.dtype:  # lazily conjugated or negated views
            v = self._alias_read(base, base_key, key)
            if key.conj != base_key.conj:
                v = self.derive(_aten.conj_physical.default, "conj_physical", (Ref(v),), key.size, key.dtype)
            if key.neg != base_key.neg:
                v = self.derive(_aten.neg.default, "neg", (Ref(v),), key.size, key.dtype)
        elif _PARTS.get(base_key.dtype) == key.dtype and not (base_key.conj or base_key.neg):
            pairs = base_key.interleaved(key.dtype)
            whole = self.derive(
                _aten.view_as_real.default, "view_as_real", (Ref(base),), pairs.size, key.dtype
            )
            v = self._alias_read(whole, pairs, key)
            if key.neg:
                v = self.derive(_aten.neg.default, "neg", (Ref(v),), key.size, key.dtype)
        elif _PARTS.get(key.dtype) == base_key.dtype and not base_key.neg:
            pairs = key.interleaved(base_key.dtype)
            v = self._alias_read(base, base_key, pairs)
            v = self.derive(_aten.view_as_complex.default, "view_as_complex", (Ref(v),), key.size, key.dtype)
            if key.conj:
                v = self.derive(_aten.conj_physical.default, "conj_physical", (Ref(v),), key.size, key.dtype)
        else:
            raise TraceError(
                f"a {base_key.dtype} tensor was written and then read as {key.dtype} through a bit-cast "
                "view; the record cannot express that"
            )
        storage.current[key] = v
        return v

    def write(self, tensor: torch.Tensor, before: tuple[Storage, Key] | None, v: int) -> None:
        """Records that `tensor` was overwritten in place and now holds the value `v`."""
        storage = self.storages.find(tensor) or self.storages.create(tensor)
        key = self.key(tensor)
        resized = before is None or before[1] != key or before[0] is not storage
        if resized or [root for root, _ in storage.roots] == [key]:
            storage.rebase(key, v)
            return
        base_key, base = self._base(storage, key)
        if base_key == key:
            storage.rebase(key, v)
            return
        storage.rebase(base_key, self._overwritten(base_key, base, key, v))
        storage.current[key] = v

    def _overwritten(self, base_key: Key, base: int, key: Key, v: int) -> int:
        if key.dtype == base_key.dtype:
            if key.conj != base_key.conj:
                v = self.derive(_aten.conj_physical.default, "conj_physical", (Ref(v),), key.size, key.dtype)
            if key.neg != base_key.neg:
                v = self.derive(_aten.neg.default, "neg", (Ref(v),), key.size, key.dtype)
            return self._alias_write(base, base_key, v, key)
        if _PARTS.get(base_key.dtype) == key.dtype and not (base_key.conj or base_key.neg):
            if key.neg:
                v = self.derive(_aten.neg.default, "neg", (Ref(v),), key.size, key.dtype)
            pairs = base_key.interleaved(key.dtype)
            whole = self.derive(
                _aten.view_as_real.default, "view_as_real", (Ref(base),), pairs.size, key.dtype
            )
            whole = self._alias_write(whole, pairs, v, key)
            return self.derive(
                _aten.view_as_complex.default, "view_as_complex", (Ref(whole),), base_key.size, base_key.dtype
            )
        if _PARTS.get(key.dtype) == base_key.dtype and not base_key.neg:
            if key.conj:
                v = self.derive(_aten.conj_physical.default, "conj_physical", (Ref(v),), key.size, key.dtype)
            pairs = key.interleaved(base_key.dtype)
            v = self.derive(_aten.view_as_real.default, "view_as_real", (Ref(v),), pairs.size, base_key.dtype)
            return self._alias_write(base, base_key, v, pairs)
        raise TraceError(
            f"a {base_key.dtype} tensor was written in place through a view as {key.dtype}; the record "
            "cannot express a bit cast"
        )

    def _alias_read(self, base: int, base_key: Key, key: Key) -> int:
        args = (Ref(base), *base_key.geometry, *key.geometry)
        return self.derive(alias_read, "alias_read", args, key.size, base_key.dtype)

    def _alias_write(self, base: int, base_key: Key, v: int, key: Key) -> int:
        args = (Ref(base), Ref(v), *base_key.geometry, *key.geometry)
        return self.derive(alias_write, "alias_write", args, base_key.size, base_key.dtype)

    def _base(self, storage: Storage, key: Key) -> tuple[Key, int]:
        """The base of a storage, joined from its roots when it has several."""
        if len(storage.roots) == 1:
            return storage.roots[0]
        for root_key, root in storage.roots:
            if root_key == key:
                storage.current.setdefault(key, root)
        return self._join_roots(storage)

    def _join_roots(self, storage: Storage) -> tuple[Key, int]:
        roots = list(storage.roots)
        dtype = roots[0][0].dtype
        if any(k.dtype != dtype or k.conj or k.neg for k, _ in roots):
            raise TraceError("tensors of several dtypes share one storage that is written in place")
        reach = 1 + max(
            (
                k.offset + sum((n - 1) * s for n, s in zip(k.size, k.stride, strict=True))
                for k, _ in roots
                if 0 not in k.size
            ),
            default=0,
        )
        whole = Key((reach,), (1,), 0, dtype)
        device = torch.device("cpu")
        data = self.graph.values[roots[0][1]].data
        if data is not None and not data.is_meta:
            device = data.device
        options = {"dtype": dtype, "device": device}
        base = self.derive(_aten.zeros.default, "zeros", ([reach],), whole.size, dtype, options)
        for root_key, root in roots:
            base = self._alias_write(base, whole, root, root_key)
        current = dict(storage.current)
        storage.rebase(whole, base)
        storage.current.update(current)
        return whole, base

    def covered(self, storage: Storage, key: Key) -> bool:
        """Whether some root of the storage covers the addresses of `key` (unknown across dtypes: yes)."""
        return any(k.dtype != key.dtype or covers(k.geometry, key.geometry) for k, _ in storage.roots)

    def current_path(self) -> str:
        """The path of the module that is running ("" for the model itself)."""
        return self.graph.calls[self.stack[-1]].path if self.stack else ""

    def dependent(self, v: int) -> bool:
        """Whether a value depends on an input of the model."""
        values, ops, depends = self.graph.values, self.graph.ops, self._depends
        depends.extend(value.kind == "input" for value in values[len(depends) :])
        while self._depends_upto < len(ops):
            op = ops[self._depends_upto]
            self._depends_upto += 1
            if any(depends[read] for read in op_reads(op)):
                for out in op.outputs:
                    if out is not None:
                        depends[out] = True
        return depends[v]


def _same_reading(a: Key, b: Key) -> bool:
    return (a.dtype, a.conj, a.neg) == (b.dtype, b.conj, b.neg)
