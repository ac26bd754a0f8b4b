"""What a forward pass may change in a model and around it, saved and put back."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

_OBJECT_LIMIT = 200_000
_OBJECT_DEPTH = 3
_CONTAINERS = (dict, list, set, deque)
_SKIP = (
    type(None), bool, int, float, complex, str, bytes, type, ModuleType, FunctionType, BuiltinFunctionType,
    MethodType, torch.dtype, torch.device, torch.Size, torch.Generator, frozenset,
)  # fmt: skip


class Snapshot:
    """Attributes, containers and tensors reachable from a model: what they were.

    Follows modules (those outside the module tree too), containers, and plain objects for a few steps.
    `names` has the dotted attribute path of every tensor met, by storage address.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[torch.Tensor, torch.Tensor, bool, Any]] = []
        self.names: dict[int, str] = {}
        self.modules: list[nn.Module] = []
        self._seen: set[int] = set()
        self._walk(model)

    def _walk(self, model: nn.Module) -> None:
        queue: deque[tuple[Any, str, int]] = deque([(model, "", 0)])
        while queue and len(self._seen) < _OBJECT_LIMIT:
            obj, path, depth = queue.popleft()
            if isinstance(obj, _SKIP) or id(obj) in self._seen:
                continue
            self._seen.add(id(obj))
            if isinstance(obj, torch.Tensor):
                self._tensor(obj, path)
                continue
            dot = f"{path}." if path else ""
            if isinstance(obj, nn.Module):
                self.modules.append(obj)
                self._save_attributes(obj)
                for name, item in obj.__dict__.items():
                    if name in ("_parameters", "_buffers", "_modules") and isinstance(item, dict):
                        self._seen.add(id(item))
                        self._containers.append((item, item.copy()))
                        queue.extend((x, f"{dot}{key}", 0) for key, x in item.items())
                    else:
                        queue.append((item, f"{dot}{name}", 0))
            elif isinstance(obj, dict):
                self._containers.append((obj, obj.copy()))
                queue.extend((item, f"{dot}{key}", depth) for key, item in obj.items())
            elif isinstance(obj, _CONTAINERS):
                self._containers.append((obj, obj.copy()))
                queue.extend((item, f"{dot}{i}", depth) for i, item in enumerate(obj))
            elif isinstance(obj, tuple):
                queue.extend((item, f"{dot}{i}", depth) for i, item in enumerate(obj))
            elif depth < _OBJECT_DEPTH and isinstance(getattr(obj, "__dict__", None), dict):
                self._save_attributes(obj)
                queue.extend((item, f"{dot}{name}", depth + 1) for name, item in obj.__dict__.items())

    def _save_attributes(self, obj: Any) -> None:
        self._attributes.append((obj.__dict__, dict(obj.__dict__)))

    def _tensor(self, tensor: torch.Tensor, path: str) -> None:
        with torch.no_grad():
            self._tensors.append(
                (tensor, tensor.detach(), tensor.requires_grad, tensor.grad if tensor.is_leaf else None)
            )
        if tensor.layout == torch.strided:
            try:
                self.names.setdefault(tensor.untyped_storage()._cdata, path)
            except (RuntimeError, NotImplementedError):  # wrapper subclasses have no storage
                return

    def restore(self) -> list[str]:
        """Puts everything back; returns notes on what could not be."""
        notes: list[str] = []
        for attributes, before in self._attributes:
            if not _same_items(attributes, before):
                attributes.clear()
                attributes.update(before)
        for container, before in self._containers:
            if isinstance(container, dict):
                if not _same_items(container, before):
                    container.clear()
                    container.update(before)
            elif isinstance(container, set):
                if container != before:
                    container.clear()
                    container.update(before)
            elif len(container) != len(before) or any(
                a is not b for a, b in zip(container, before, strict=True)
            ):
                container.clear()
                container.extend(before)
        for tensor, alias, requires_grad, grad in self._tensors:
            self._restore_tensor(tensor, alias, requires_grad, grad, notes)
        return notes

    def _restore_tensor(
        self, tensor: torch.Tensor, alias: torch.Tensor, requires_grad: bool, grad: Any, notes: list[str]
    ) -> None:
        if not _same_memory(tensor, alias):
            try:
                tensor.data = alias
            except RuntimeError as error:
                notes.append(
                    f"a tensor of shape {tuple(alias.shape)} of the model was replaced and stays so: {error}"
                )
                return
        if tensor.requires_grad != requires_grad and tensor.is_leaf:
            tensor.requires_grad_(requires_grad)
        if tensor.is_leaf and tensor.grad is not grad:
            tensor.grad = grad


def _same_items(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return (
        len(a) == len(b)
        and all(key in a and a[key] is item for key, item in b.items())
        and list(a) == list(b)
    )


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if type(a) is not type(b) and a.device != b.device:
        return False
    if a.layout != torch.strided or b.layout != torch.strided:
        return True
    try:
        return (
            a.untyped_storage()._cdata == b.untyped_storage()._cdata
            and a.shape == b.shape
            and a.stride() == b.stride()
            and a.storage_offset() == b.storage_offset()
        )
    except (RuntimeError, NotImplementedError):
        return True


@contextmanager
def random_state() -> Iterator[None]:
    """Leaves the random generators of torch, Python and (when imported) numpy as they were."""
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy is not None else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy is not None and numpy_state is not None:
                numpy.random.set_state(numpy_state)


def clear_leaking_caches(modules: list[nn.Module]) -> list[str]:
    """Clears `functools.lru_cache`s that the pass filled with fake tensors, and returns notes.

    Looks at the Python modules of the model's classes and at the classes themselves: functions, methods, and what
    decorators wrapped around either. What a cache holds cannot be seen through its interface.
    """
    notes: list[str] = []
    classes = {base for m in modules for base in type(m).__mro__}
    scopes: dict[str, Mapping[str, Any]] = {
        f"{c.__module__}.{c.__qualname__}": vars(c) for c in classes if not _ours_or_torch(c.__module__)
    }
    for name in {type(m).__module__ for m in modules}:
        if name in sys.modules and not _ours_or_torch(name):
            scopes[name] = vars(sys.modules[name])
    for name in sorted(scopes):
        for attribute, item in list(scopes[name].items()):
            for cached in _caches_of(item):
                notes.extend(_clear(name, attribute, cached))
    return notes


def _ours_or_torch(name: str) -> bool:
    return name == "builtins" or name.partition(".")[0] in ("torch", "deepstruct")


def _caches_of(item: Any) -> Iterator[Any]:
    """The function caches that something callable is, or has in its closure."""
    if isinstance(item, (staticmethod, classmethod)):
        item = item.__func__
    elif isinstance(item, property):
        item = item.fget
    if _is_cache(item):
        yield item
    elif isinstance(item, FunctionType):
        for cell in item.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if _is_cache(inside):
                yield inside


def _is_cache(item: Any) -> bool:
    if isinstance(item, (type, ModuleType)):
        return False
    return callable(getattr(item, "cache_info", None)) and callable(getattr(item, "cache_clear", None))


def _clear(name: str, attribute: str, cached: Any) -> list[str]:
    import gc

    from torch._subclasses.fake_tensor import FakeTensor

    if cached.cache_info().currsize == 0:
        return []
    # a cache holds its results in containers of its own: look two steps down
    held = gc.get_referents(cached)
    held += [x for h in held if isinstance(h, (dict, list, tuple)) for x in gc.get_referents(h)]
    held += [x for h in held if not isinstance(h, type) for x in _inside(h)]
    if not any(isinstance(x, FakeTensor) for x in held):
        return []
    cached.cache_clear()
    return [f"the function cache {name}.{attribute} held fake tensors of the trace and was cleared"]


def _inside(obj: Any) -> list[Any]:
    import gc

    if isinstance(obj, (FunctionType, ModuleType, nn.Module, str, torch.Tensor)):
        return []
    return gc.get_referents(obj)
