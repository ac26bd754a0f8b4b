"""The dispatch mode that records every ATen operation."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ..errors import CapacityError, TraceError
from . import interpret
from .evaluator import Evaluator
from .leaves import Leaves
from .opgraph import Ref
from .record import Record
from .schemas import LAYOUT_READS, Facts, facts, written_positions
from .storages import Key, Storage

_DEVICE = torch.ops.prim.device.default
_SET = torch.ops.aten.set_
_MASK_READS = frozenset({"index", "_unsafe_index"})
_RESIZES = frozenset({"resize", "resize_as"})


class Recorder(TorchDispatchMode):
    """Records ATen operations into a `Record`, on fake tensors (with `fake_mode`) or on real ones.

    In fake mode, real tensors that the model holds are replaced by fake twins before an operation runs,
    so the model's own data is never written. An operation whose result depends on data is run by the
    `Evaluator` instead.
    """

    def __init__(self, record: Record, leaves: Leaves, evaluator: Evaluator) -> None:
        super().__init__()
        self.record = record
        self.leaves = leaves
        self.evaluator = evaluator
        self.fake_mode = leaves.fake_mode
        self._own_types: set[type] = {torch.Tensor, torch.nn.Parameter}
        self._data_errors: tuple[type[BaseException], ...] = ()
        if self.fake_mode is not None:
            from torch._subclasses import fake_tensor

            self._own_types.add(fake_tensor.FakeTensor)
            self._data_errors = (
                fake_tensor.DynamicOutputShapeException,
                fake_tensor.DataDependentOutputException,
                fake_tensor.UnsupportedOperatorException,
            )

    supports_higher_order_operators = True

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
            return self._higher_order(func, args, kwargs)
        known = facts(func)
        if known.composite:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
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

        if known.data_dependent and (known.name not in _MASK_READS or _has_mask(seen_args, self.record)):
            self.leaves.data_read(known.name, [*_ids(seen_args), *_ids(seen_kwargs)])
        mutates = written_positions(known, args, kwargs)
        written = [
            (t, self._place(t))
            for p in mutates
            for t in _tensors(args[p] if isinstance(p, int) else kwargs[p])
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

    def _higher_order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Operators that take functions (cond, flex_attention): their plain implementation is recorded."""
        if func is torch.ops.higher_order.cond:  # its plain implementation refuses to run within a mode
            predicate, true_branch, false_branch, operands = args
            with self:
                return (true_branch if bool(predicate) else false_branch)(*operands)
        if func is getattr(torch.ops.higher_order, "scan", None):  # the same
            from torch._higher_order_ops.scan import generic_scan

            combine, init, elements = args[:3]
            rest = args[3] if len(args) > 3 else kwargs.get("additional_inputs", ())
            with self:
                return generic_scan(combine, init, elements, additional_inputs=rest)
        if func is getattr(torch.ops.higher_order, "invoke_subgraph", None):  # a region that is compiled once
            with self:
                return args[0](*args[2:])
        kernel = getattr(func, "py_kernels", {}).get(torch._C.DispatchKey.CompositeExplicitAutograd)
        if kernel is None:
            raise TraceError(f"the operator {func} has no plain implementation that could be recorded")
        with self:
            return kernel(*args, **kwargs)

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
            return self.evaluator.run(func, known.name, tuple(seen_args), seen_kwargs, mutates)
        except Exception as error:
            if known.name == "_grouped_mm":  # its shape function refuses dtypes that the kernel accepts
                return _grouped_mm(*run_args, **run_kwargs)
            if func.namespace in ("aten", "prims"):
                raise
            # a custom operator without a shape function: its kernel says the shape
            try:
                return self.evaluator.run(func, known.name, tuple(seen_args), seen_kwargs, mutates)
            except (TraceError, CapacityError) as second:
                raise error from second

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
        for position, tensor in zip(positions, outputs, strict=True):
            if tensor is None:
                ids.append(None)
                continue
            v = record.value(tensor, "op")
            ids.append(v)
            if position is None:
                places.append((tensor, v))
            else:
                new_value_of[position] = v
                self.evaluator.settle(tensor, v)
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
            self.evaluator.settle(tensor, v)
        for position, (tensor, before) in enumerate(written):
            v = new_value_of[position]
            if known.view_in_place and known.name not in _RESIZES:
                storage, key, _ = record.produced(tensor)
                storage.current[key] = v
            else:
                record.write(tensor, before, v)
        if known.random:
            self.leaves.random.setdefault(known.name, record.current_path())

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
        return type(result)(original(p, item) for p, item in zip(known.returned, result, strict=True))


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


def _has_mask(seen_args: list[Any], record: Record) -> bool:
    """Whether an index operation has a boolean index: its result then has a shape that depends on data."""
    dtypes = (record.graph.values[v].dtype for v in _ids(seen_args[1:]))
    return any(dtype in (torch.bool, torch.uint8) for dtype in dtypes)


def _grouped_mm(
    a: torch.Tensor,
    b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """An empty result of `_grouped_mm`, whose own shape function knows bfloat16 only."""
    if a.dim() == 3 and b.dim() == 3:
        shape = [a.shape[0], a.shape[1], b.shape[2]]
    elif a.dim() == 2 and b.dim() == 2 and offs is not None:
        shape = [offs.shape[0], a.shape[0], b.shape[1]]
    else:
        shape = [a.shape[-2], b.shape[-1]]
    return a.new_empty(shape, dtype=out_dtype or a.dtype)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in interpret.flat_tensors(tree) if t is not None]


def _ids(tree: Any) -> list[int]:
    return interpret.refs_of(tree)
