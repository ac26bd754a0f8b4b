"""Which recorded value each tensor of a running forward pass holds.

Tensors are told apart by storage and geometry, not by identity: two tensors with the same geometry in
the same storage hold the same numbers, whatever Python objects they are. Every storage has a *base*,
the value from which any view can be read, and the values of the geometries seen since the last write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Key(NamedTuple):
    """Geometry and reading of a tensor in its storage (strides and offset in elements of `dtype`)."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    conj: bool = False
    neg: bool = False

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        return self.size, self.stride, self.offset

    def interleaved(self, dtype: torch.dtype) -> Key:
        """The key of the same complex numbers seen as pairs of real ones."""
        return Key((*self.size, 2), (*(2 * s for s in self.stride), 1), 2 * self.offset, dtype)


def key_of(tensor: torch.Tensor) -> Key:
    """The key of a strided tensor. Strides that no address depends on (of length-1 axes) count as zero."""
    dtype = tensor.dtype
    size = tuple(tensor.shape)
    return Key(
        size,
        tuple([s if n > 1 else 0 for n, s in zip(size, tensor.stride(), strict=True)]),
        int(tensor.storage_offset()),
        dtype,
        dtype.is_complex and tensor.is_conj(),
        tensor.is_neg(),
    )


@dataclass
class Storage:
    """What is known of one storage.

    `roots` are values that together hold the whole content: one base, or several disjoint leaves
    (parameters that are slices of one flat storage). `current` maps geometries to the values that they
    hold now. `foreign` marks storages that existed before the pass (parameters, buffers, constants).
    """

    hold: Any
    foreign: bool = False
    roots: list[tuple[Key, int]] = field(default_factory=list)
    current: dict[Key, int] = field(default_factory=dict)

    def rebase(self, key: Key, value: int) -> None:
        """Forgets everything: the storage now holds `value`."""
        self.roots = [(key, value)]
        self.current = {key: value}

    def add_root(self, key: Key, value: int) -> None:
        self.roots.append((key, value))
        self.current[key] = value


class StorageTable:
    """Storages by address.

    Every storage is held by a weak reference of the C++ kind: its memory is freed when the model drops
    it, but its address is not used again while the table lives.
    """

    def __init__(self) -> None:
        self._storages: dict[Any, Storage] = {}

    def find(self, tensor: torch.Tensor) -> Storage | None:
        return self._storages.get(self._address(tensor))

    def create(self, tensor: torch.Tensor, foreign: bool = False) -> Storage:
        hold: Any = tensor
        if tensor.layout == torch.strided:
            hold = StorageWeakRef(tensor.untyped_storage())
        storage = self._storages[self._address(tensor)] = Storage(hold, foreign)
        return storage

    def join(self, tensor: torch.Tensor, storage: Storage) -> None:
        """Makes the storage of `tensor` (the fake twin of a real tensor) another name of `storage`."""
        address = self._address(tensor)
        if address not in self._storages:
            storage.hold = (storage.hold, StorageWeakRef(tensor.untyped_storage()))
            self._storages[address] = storage

    @staticmethod
    def _address(tensor: torch.Tensor) -> Any:
        if tensor.layout != torch.strided:  # sparse and opaque tensors have none: their identity serves
            return ("tensor", id(tensor))
        return tensor.untyped_storage()._cdata
