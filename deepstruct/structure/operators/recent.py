"""Patterns of weights as numbers, kept for a while: one analysis multiplies by the same ones again and again."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import torch

Key = tuple[object, ...]


class RecentPatterns:
    """What was made of weight tensors last, within a number of bytes; forgotten with the tensor that it is of."""

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[Key, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = OrderedDict()

    def get(self, tensor: torch.Tensor, *how: object, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The result of `make()` for this tensor as it is now; `how` tells several of one tensor apart."""
        version = -1 if tensor.is_inference() else tensor._version
        if version < 0:  # nothing says when it is written
            return make()
        key = (id(tensor), tensor.data_ptr(), version, *how)
        entry = self._kept.get(key)
        if entry is not None and entry[0]() is tensor:
            with suppress(KeyError):  # another thread may drop it meanwhile
                self._kept.move_to_end(key)
            return entry[1]
        made = make()
        size = made.numel() * made.element_size()
        if size <= self.limit:
            self._drop(key)
            self._kept[key] = (weakref.ref(tensor, lambda _: self._drop(key)), made)
            self.bytes += size
            while self.bytes > self.limit:
                self._drop(next(iter(self._kept)))
        return made

    def _drop(self, key: Key) -> None:
        entry = self._kept.pop(key, None)
        if entry is not None:
            self.bytes -= entry[1].numel() * entry[1].element_size()


RECENT = RecentPatterns(128 << 20)
