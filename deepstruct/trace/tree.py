"""Walking the structures that models take and return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch

from .opgraph import Ref

_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, slice, range, type(Ellipsis),
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, Enum,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Stands for an object that the record does not look into (a cache, a configuration, ...)."""

    type_name: str

    def __repr__(self) -> str:
        return f"<{self.type_name}>"


def type_name(obj: Any) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}".removeprefix("builtins.")


def is_namedtuple(obj: Any) -> bool:
    return isinstance(obj, tuple) and hasattr(obj, "_fields")


def _remade(obj: Any, items: list[Any]) -> Any:
    return type(obj)._make(items)


def fields_of(obj: Any) -> dict[str, Any] | None:
    """The fields of a mapping or a dataclass instance (Hugging Face's ModelOutput is both), else None."""
    if isinstance(obj, Mapping):
        return {str(key): item for key, item in obj.items()}
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj) if hasattr(obj, f.name)}
    return None


def describe(obj: Any, ref: Callable[[torch.Tensor], Any], depth: int = 12) -> Any:
    """A record of `obj`: tensors go through `ref`, containers become tuples, lists and dicts.

    Named tuples keep their type; mappings and dataclasses become dicts; plain values stay; anything
    else becomes `Opaque`, so that a record never keeps a model's own objects alive.
    """
    if isinstance(obj, torch.Tensor):
        return ref(obj)
    if isinstance(obj, _PLAIN):
        return obj
    if depth == 0:
        return Opaque(type_name(obj))
    if isinstance(obj, (tuple, list)):
        items = [describe(item, ref, depth - 1) for item in obj]
        if is_namedtuple(obj):
            return _remade(obj, items)
        return items if isinstance(obj, list) else tuple(items)
    fields = fields_of(obj)
    if fields is not None:
        return {name: describe(item, ref, depth - 1) for name, item in fields.items()}
    return Opaque(type_name(obj))


def leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, leaf) of nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(tree, (torch.Tensor, Ref, Opaque, *_PLAIN)):
        return [(prefix, tree)]
    if is_namedtuple(tree):
        items = list(zip(tree._fields, tree, strict=True))
    elif isinstance(tree, (tuple, list)):
        items = [(str(i), item) for i, item in enumerate(tree)]
    else:
        fields = fields_of(tree)
        if fields is None:
            return [(prefix, tree)]
        items = list(fields.items())
    found: list[tuple[str, Any]] = []
    for name, item in items:
        found.extend(leaves(item, f"{prefix}.{name}" if prefix else name))
    return found


def map_tensors(obj: Any, fn: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`obj` with its tensors mapped: containers are rebuilt as what they are, other objects are kept.

    Dataclasses are shallow copies; a mapping that cannot be rebuilt from a dict raises TypeError.
    """
    if isinstance(obj, torch.Tensor):
        return fn(obj)
    if isinstance(obj, _PLAIN):
        return obj
    if isinstance(obj, (tuple, list)):
        items = [map_tensors(item, fn) for item in obj]
        if is_namedtuple(obj):
            return _remade(obj, items)
        return type(obj)(items)
    if isinstance(obj, dict):
        mapped = {key: map_tensors(item, fn) for key, item in obj.items()}
        if type(obj) is dict:
            return mapped
        copy = _shallow(obj)
        copy.update(mapped)
        return copy
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        copy = _shallow(obj)
        for field in dataclasses.fields(obj):
            if hasattr(obj, field.name):
                object.__setattr__(copy, field.name, map_tensors(getattr(obj, field.name), fn))
        return copy
    if isinstance(obj, Mapping):  # UserDict: tokenizers return one
        copy = _shallow(obj)
        inner = getattr(copy, "data", None)
        if not isinstance(inner, dict):
            raise TypeError(f"cannot rebuild a {type_name(obj)}; pass a dict of its items")
        copy.data = {key: map_tensors(item, fn) for key, item in inner.items()}
        return copy
    return obj


def _shallow(obj: Any) -> Any:
    import copy

    return copy.copy(obj)
