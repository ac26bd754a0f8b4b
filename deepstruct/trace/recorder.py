"""The dispatch mode that records every ATen operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..errors import TraceError
from . import interpret
from .leaves import Leaves
from .opgraph import Op, Ref
from .record import Record
from .schemas import LAYOUT_READS, Facts, facts, written_positions
from .storages import Key, Storage

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

_DEVICE = torch.ops.prim.device.default
_SET = torch.ops.aten.set_
_RESIZES = frozenset({"resize", "resize_as"})


class Recorder(TorchDispatchMode):
    """Records ATen operations into a `Record`, on fake tensors (with `fake_mode`) or on real ones.

    In fake mode, real tensors that the model holds are replaced by fake twins before an operation runs,
    so the model's own data is never written. An operation whose result depends on data is run on real
    tensors: only the slice of the record that its arguments need is evaluated, within `byte_budget`.
    """

    def __init__(
        self, record: Record, leaves: Leaves, fake_mode: FakeTensorMode | None, byte_budget: int
    ) -> None:
        super().__init__()
        self.record = record
        self.leaves = leaves
        self.fake_mode = fake_mode
        self.byte_budget = byte_budget
        self._own_types: set[type] = {torch.Tensor, torch.nn.Parameter}
        self._evaluated: dict[int, torch.Tensor] = {}
        self._evaluated_bytes = 0
        self.held: list[torch.Tensor] = []
        self._pending: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._data_errors: tuple[type[BaseException], ...] = ()
        if fake_mode is not None:
            from torch._subclasses import fake_tensor

            self._own_types.add(fake_tensor.FakeTensor)
            self._data_errors = (
                fake_tensor.DynamicOutputShapeException,
                fake_tensor.DataDependentOutputException,
                fake_tensor.UnsupportedOperatorException,
            )

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that this avoids costs more than the rest of a dispatch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE:
            return func(*args, **kwargs)
        if any(t not in self._own_types for t in types):
            return NotImplemented  # a tensor subclass: it issues plain operations, which come back here
        with torch._C.DisableTorchFunction():
            return self._dispatch(func, args, kwargs)

    def _dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(func, torch._ops.OpOverload):
            raise TraceError(f"the operator {func} cannot be recorded: it runs other operators inside")
        known = facts(func)
        if known.composite:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        record = self.record
        if known.name in ("lift_fresh", "lift"):
            self.leaves.literal(args[0])
        seen_args: list[Any] = []
        run_args: list[Any] = []
        for item in args:
            seen, run = self._argument(item)
            seen_args.append(seen)
            run_args.append(run)
        seen_kwargs: dict[str, Any] = {}
        run_kwargs: dict[str, Any] = {}
        for name, item in kwargs.items():
            seen_kwargs[name], run_kwargs[name] = self._argument(item)

        if known.data_dependent:
            self.leaves.data_read(known.name, [*_ids(seen_args), *_ids(seen_kwargs)])
        mutates = written_positions(known, args, kwargs)
        written = [
            (t, self._place(t)) for p in mutates for t in _tensors(args[p] if isinstance(p, int) else kwargs[p])
        ]
        if known.view_in_place and self.fake_mode is not None:
            own = [t for t, _ in written if not self.leaves.is_fake(t)]
            if own and (func.overloadpacket is _SET or known.name in _RESIZES):
                raise TraceError(f"{known.name} in place on a tensor of the model's own")
            if own:  # changes no data; the snapshot of the model puts the geometry back
                with _disable_current_modes():
                    func(*args, **kwargs)
        self.leaves.before_write([t for t, _ in written])

        result = self._run(func, known, seen_args, seen_kwargs, run_args, run_kwargs, mutates)

        if known.view_in_place and (
            func.overloadpacket is _SET
            or known.name in LAYOUT_READS
            or all(self._same_place(self._place(t), before) for t, before in written)
        ):
            return self._returned(known, result, args, kwargs)  # the next reader finds the new geometry
        outputs, fresh = self._outputs(known, result, written)
        if fresh:
            if known.name in LAYOUT_READS and not mutates and len(outputs) == 1:
                self._layout_read(result)
            else:
                self._append(func, known, seen_args, seen_kwargs, outputs, mutates, written)
        elif known.data_dependent and isinstance(result, (int, float)):
            self.leaves.scalars.add(result)
        return self._returned(known, result, args, kwargs)

    # -- arguments -------------------------------------------------------------------------------

    def _argument(self, item: Any) -> tuple[Any, Any]:
        """(as recorded, as run): tensors become Refs and, in fake mode, fake tensors."""
        if isinstance(item, torch.Tensor):
            ref = Ref(self.record.ref(item))
            return ref, self.leaves.twin(item)
        if isinstance(item, (list, tuple)) and any(isinstance(x, (torch.Tensor, list, tuple)) for x in item):
            pairs = [self._argument(x) for x in item]
            return type(item)([s for s, _ in pairs]), type(item)([r for _, r in pairs])
        if isinstance(item, torch.device):
            device = self.leaves.device(item)
            return device, device
        return item, item

    def _place(self, tensor: torch.Tensor) -> tuple[Storage, Key] | None:
        storage = self.record.storages.find(tensor)
        return None if storage is None else (storage, self.record.key(tensor))

    @staticmethod
    def _same_place(a: tuple[Storage, Key] | None, b: tuple[Storage, Key] | None) -> bool:
        return a is not None and b is not None and a[0] is b[0] and a[1] == b[1]

    # -- running ---------------------------------------------------------------------------------

    def _run(
        self,
        func: Any,
        known: Facts,
        seen_args: list[Any],
        seen_kwargs: dict[str, Any],
        run_args: list[Any],
        run_kwargs: dict[str, Any],
        mutates: tuple[int | str, ...],
    ) -> Any:
        if self.fake_mode is None:
            return func(*run_args, **run_kwargs)
        try:
            return func(*run_args, **run_kwargs)
        except self._data_errors:
            pass
        ids = [*_ids(seen_args), *_ids(seen_kwargs)]
        real = self.evaluate(ids)
        args = interpret.substitute(seen_args, real.__getitem__)
        kwargs = interpret.substitute(seen_kwargs, real.__getitem__)
        with _disable_current_modes(), torch.no_grad():
            op = Op(0, func, known.name, tuple(args), kwargs, (), 0, mutates)
            results = interpret.execute_raw(op, args, kwargs)
        return interpret.map_result(results, self._wrap)

    def _wrap(self, tensor: torch.Tensor) -> torch.Tensor:
        assert self.fake_mode is not None
        twin = self.fake_mode.from_tensor(tensor)
        self._pending[id(twin)] = (twin, tensor)
        return twin

    def evaluate(self, ids: list[int]) -> dict[int, torch.Tensor]:
        """Real values of `ids` for the example inputs."""
        graph = self.record.graph
        with _disable_current_modes(), torch.no_grad():
            real = interpret.run(graph.values, graph.ops, ids, self._evaluated, self.byte_budget)
        for v, tensor in real.items():
            self.remember(v, tensor)
        return real

    def remember(self, v: int, tensor: torch.Tensor) -> None:
        """Keeps a real result for later slices, up to a quarter of the budget."""
        if self.record.graph.values[v].producer is None or v in self._evaluated:
            return
        self._evaluated[v] = tensor
        self._evaluated_bytes += tensor.numel() * tensor.element_size()
        while self._evaluated_bytes > self.byte_budget // 4 and len(self._evaluated) > 1:
            oldest = next(iter(self._evaluated))
            dropped = self._evaluated.pop(oldest)
            self._evaluated_bytes -= dropped.numel() * dropped.element_size()

    # -- results ---------------------------------------------------------------------------------

    def _outputs(
        self, known: Facts, result: Any, written: list[Any]
    ) -> tuple[list[torch.Tensor | None], bool]:
        """The returned tensors, and whether the op needs recording (it is no mere no-op view)."""
        flat = interpret.flat_tensors(result)
        if written:
            return flat, True
        tensors = [t for t in flat if t is not None]
        if not tensors:
            return [], False
        return flat, any(self.record.produced(t)[2] is None for t in tensors)

    def _append(
        self,
        func: Any,
        known: Facts,
        seen_args: list[Any],
        seen_kwargs: dict[str, Any],
        outputs: list[torch.Tensor | None],
        mutates: tuple[int | str, ...],
        written: list[tuple[torch.Tensor, tuple[Storage, Key] | None]],
    ) -> None:
        record = self.record
        ids: list[int | None] = []
        places: list[tuple[torch.Tensor, int]] = []
        new_value_of: dict[int, int] = {}  # position in `written` -> value
        positions = _written_positions_of_returns(known, mutates, outputs)
        for position, tensor in zip(positions, outputs):
            if tensor is None:
                ids.append(None)
                continue
            v = record.value(tensor, "op")
            ids.append(v)
            if position is None:
                places.append((tensor, v))
            else:
                new_value_of[position] = v
                self._finish(tensor, v)
        for position, (tensor, _) in enumerate(written):
            if position not in new_value_of:
                new_value_of[position] = v = record.value(tensor, "op")
                ids.append(v)
        record.op(func, known.name, tuple(seen_args), seen_kwargs, ids, mutates)
        for tensor, v in places:
            storage, key, current = record.produced(tensor)
            if current is None:
                if record.covered(storage, key):
                    storage.current[key] = v
                else:
                    storage.add_root(key, v)
            self._finish(tensor, v)
        for position, (tensor, before) in enumerate(written):
            v = new_value_of[position]
            if known.view_in_place and known.name not in _RESIZES:
                storage, key, _ = record.produced(tensor)
                storage.current[key] = v
            else:
                record.write(tensor, before, v)
        if known.random:
            self.leaves.random.setdefault(known.name, record.current_path())

    def _finish(self, tensor: torch.Tensor, v: int) -> None:
        pending = self._pending.pop(id(tensor), None)
        if pending is not None:
            self.remember(v, pending[1])

    def _layout_read(self, tensor: torch.Tensor) -> None:
        """`as_strided` reads addresses of the storage: it is an alias read of the base."""
        storage, key, current = self.record.produced(tensor)
        if current is None:
            self.record.read(storage, key)

    def _returned(self, known: Facts, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result with written arguments as the objects that were passed."""
        if not known.returned or all(position is None for position in known.returned):
            return result

        def original(position: int | None, item: Any) -> Any:
            if position is None:
                return item
            return args[position] if position < len(args) else kwargs.get(known.arguments[position], item)

        if len(known.returned) == 1:
            return original(known.returned[0], result)
        return type(result)(original(p, item) for p, item in zip(known.returned, result))


def _written_positions_of_returns(
    known: Facts, mutates: tuple[int | str, ...], outputs: list[torch.Tensor | None]
) -> list[int | None]:
    """For each returned tensor: which of the written tensors it is (by rank), or None."""
    if not mutates or len(known.returned) != len(outputs):
        return [None] * len(outputs)
    rank: dict[int, int] = {}
    for order, position in enumerate(mutates):
        rank[position if isinstance(position, int) else known.arguments.index(position)] = order
    return [None if p is None else rank.get(p) for p in known.returned]


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in interpret.flat_tensors(tree) if t is not None]


def _ids(tree: Any) -> list[int]:
    return interpret.refs_of(tree)
