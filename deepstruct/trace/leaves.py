"""Tensors that no recorded operation made: weights, constants, literals; and data that left the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TraceError
from .record import Record

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

_LITERAL_LIMIT = 4096


class Leaves:
    """Registers foreign tensors, gives them fake twins, and undoes what real operations wrote to them.

    `name_of` looks a tensor up among the attributes of the model ("" when it is none). `meta_as_cpu`
    makes a model whose weights are on the meta device look as if it were on the CPU.
    """

    def __init__(
        self,
        record: Record,
        fake_mode: FakeTensorMode | None,
        name_of: Callable[[torch.Tensor], str],
        meta_as_cpu: bool = False,
    ) -> None:
        self.record = record
        self.fake_mode = fake_mode
        self.name_of = name_of
        self.meta_as_cpu = meta_as_cpu
        self.random: dict[str, str] = {}
        self.scalars: set[Any] = set()
        self._reads: dict[tuple[str, str], int] = {}
        self._escapes: list[str] = []
        self._suspects: list[str] = []
        self._twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._saved: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        self._saved_addresses: set[int] = set()
        self._fake_type: type | None = None
        if fake_mode is not None:
            from torch._subclasses.fake_tensor import FakeTensor

            self._fake_type = FakeTensor
        record.on_foreign = self.constant

    # -- fake twins ------------------------------------------------------------------------------

    def is_fake(self, tensor: torch.Tensor) -> bool:
        return self._fake_type is not None and isinstance(tensor, self._fake_type)

    def device(self, device: torch.device) -> torch.device:
        return torch.device("cpu") if self.meta_as_cpu and device.type == "meta" else device

    def twin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor to run with: itself, or in fake mode the fake that stands for a real tensor."""
        if self.fake_mode is None or self.is_fake(tensor):
            return tensor
        hit = self._twins.get(id(tensor))
        if hit is not None:
            return hit[1]
        converter = self.fake_mode.fake_tensor_converter
        if tensor.is_meta and self.meta_as_cpu:
            with torch._C._DisableTorchDispatch():
                elem = tensor.detach()
            twin = converter.from_meta_and_device(self.fake_mode, elem, torch.device("cpu"))
        else:
            twin = converter.from_real_tensor(self.fake_mode, tensor)
        storage = self.record.storages.find(tensor)
        if storage is not None and tensor.layout == torch.strided:
            if self.record.key(twin) != self.record.key(tensor):
                raise TraceError(
                    f"no fake tensor has the geometry of a tensor of shape {tuple(tensor.shape)}"
                )
            self.record.storages.join(twin, storage)
        self._twins[id(tensor)] = (tensor, twin)  # holds the tensor too, so its id is not used again
        return twin

    # -- constants -------------------------------------------------------------------------------

    def constant(self, tensor: torch.Tensor) -> int:
        """Registers a tensor that appears out of nowhere."""
        if self.is_fake(tensor):
            raise TraceError(
                f"a fake tensor of shape {tuple(tensor.shape)} in {self._where()} was made outside the "
                "recorded operations"
            )
        name = self.name_of(tensor)
        v = self.record.leaf(tensor, "constant", name)
        if not name and (self._escapes or self.fake_mode is None):
            self._suspect(tensor, f"after {self._escapes[-1]}" if self._escapes else "of unknown origin")
        return v

    def literal(self, tensor: torch.Tensor) -> None:
        """Registers what `torch.tensor(...)` or `torch.from_numpy(...)` has just made."""
        if self.is_fake(tensor) or self.record.storages.find(tensor) is not None:
            return
        self.record.leaf(tensor, "constant")
        if self._escapes:
            self._suspect(tensor, f"after {self._escapes[-1]}")
        elif self.scalars and 0 < tensor.numel() <= _LITERAL_LIMIT:
            from torch.utils._python_dispatch import _disable_current_modes

            with _disable_current_modes():
                known = all(x in self.scalars for x in tensor.reshape(-1).tolist())
            if known:
                self._suspect(tensor, "from numbers that were read from input-dependent tensors")

    def _suspect(self, tensor: torch.Tensor, why: str) -> None:
        self._suspects.append(
            f"constant of shape {tuple(tensor.shape)} and dtype {tensor.dtype} in {self._where()}, {why}: "
            "its values are those of this example and do not follow the input"
        )

    def _where(self) -> str:
        path = self.record.current_path()
        return f"module {path!r}" if path else "the model's own forward"

    # -- data that leaves the record -------------------------------------------------------------

    def data_read(self, name: str, ids: list[int]) -> None:
        """An operation returns a number, or a shape, that depends on the data of `ids`."""
        if any(self.record.dependent(v) for v in ids):
            key = (name, self._where())
            self._reads[key] = self._reads.get(key, 0) + 1

    def escape(self, method: str, tensor: torch.Tensor) -> None:
        """Python (or numpy) reads the memory of a tensor."""
        storage = self.record.storages.find(tensor)
        if storage is not None and self.record.dependent(self.record.ref(tensor)):
            self._escapes.append(f"Tensor.{method} in {self._where()}")

    # -- writes to the model's own tensors -------------------------------------------------------

    def before_write(self, tensors: list[torch.Tensor]) -> None:
        """Keeps a copy of what a real operation is about to overwrite, when it was there before the pass."""
        if self.fake_mode is not None:
            return
        for tensor in tensors:
            storage = self.record.storages.find(tensor)
            if storage is None or not storage.foreign or tensor.layout != torch.strided:
                continue
            memory = tensor.untyped_storage()
            if memory._cdata not in self._saved_addresses:
                self._saved_addresses.add(memory._cdata)
                self._saved.append((memory, memory.clone()))

    def restore(self) -> None:
        """Writes the copies back. Run outside the modes."""
        for memory, copy in self._saved:
            memory.copy_(copy)
        self._saved.clear()
        self._saved_addresses.clear()

    # -- reporting -------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        notes: list[str] = []
        for (name, where), count in self._reads.items():
            what = "a value" if name == "_local_scalar_dense" else f"the result of {name}"
            times = "once" if count == 1 else f"{count} times"
            notes.append(
                f"{what} that depends on the input was read {times} in {where}: the control flow and "
                "shapes that follow from it are those of this example"
            )
        for escape in dict.fromkeys(self._escapes):
            notes.append(f"input-dependent data left the record by {escape}")
        notes.extend(dict.fromkeys(self._suspects))
        for name, path in self.random.items():
            where = f"module {path!r}" if path else "the model's own forward"
            notes.append(f"{name} in {where} draws random numbers: a replay draws new ones")
        return notes
