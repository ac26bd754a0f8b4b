"""Keeping a model as it is while code of a plugin looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from deepstruct.errors import PluginError

_PARTS = ("_parameters", "_buffers", "_modules")


class WriteGuard(TorchDispatchMode):
    """Refuses operations that write into given tensors, through whatever view, before they run."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = {_storage(tensor): name for name, tensor in tensors.items() if tensor.layout == torch.strided}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for written in _written(func, args, kwargs):
            name = self._names.get(_storage(written))
            if name is not None:
                raise PluginError(f"it writes into {name!r} of the model ({func}): hooks may only look at a model")
        return func(*args, **kwargs)


@contextmanager
def untouched(module: nn.Module | None, weights: Mapping[str, torch.Tensor] | None = None) -> Iterator[None]:
    """A context in which no weight of a module can be written, and after which its parts are as before.

    `weights` are the tensors to watch, by name; without it, those of the module.

    Writes through torch are refused before they happen; parameters, buffers, submodules and training flags
    that were exchanged are put back. Raises PluginError for both. Writes through NumPy views are not seen.
    """
    if weights is None and module is not None:
        weights = dict(module.named_parameters()) | dict(module.named_buffers())
    before = [] if module is None else [(part, _parts(part)) for part in module.modules()]
    rng = torch.get_rng_state()
    changed = ""
    try:
        with WriteGuard(weights or {}):
            yield
    finally:
        for part, (flag, tables) in before:
            if part.training != flag:
                part.training, changed = flag, "the training flag"
            for name, table in tables.items():
                now = part.__dict__[name]
                if list(now) != list(table) or any(now[key] is not value for key, value in table.items()):
                    now.clear()
                    now.update(table)
                    changed = name.strip("_")
        if not torch.equal(rng, torch.get_rng_state()):
            torch.set_rng_state(rng)
            changed = changed or "the random state"
    if changed:
        raise PluginError(f"it changed {changed} of the model (put back): hooks may only look at a model")


def _parts(part: nn.Module) -> tuple[bool, dict[str, dict[str, Any]]]:
    return part.training, {name: dict(part.__dict__[name]) for name in _PARTS}


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # wrapper tensors (quantised, fake) have no storage of their own
        return id(tensor)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                yield leaf
