"""What a batch is asked for, as one value that pickles, prints and hashes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ORDERS = ("zeroth", "first", "second", "third")


@dataclass(frozen=True)
class BatchSpec:
    """The question put to every checkpoint.

    Attributes:
        model: a model, a function without arguments that makes one, "package.module:factory" or
            "path/to/file.py:factory"; None for what the weights tell alone.
        example_input, example_kwargs: as for `deepstruct.analyze`.
        orders, metrics, analyzer, max_memory, max_seconds, settings: what is measured.
        structure: threshold, density, normalization, attention, on_unknown.
        options: depth, unit.
        allow_pickle, allow_torchscript: what readers may do beyond reading tensors.
        seed: for the weights of a fresh model.
    """

    model: Any = None
    example_input: Any = None
    example_kwargs: Mapping[str, Any] | None = None
    orders: tuple[str, ...] = ("zeroth",)
    metrics: tuple[str, ...] | str | None = None
    analyzer: str = "auto"
    max_memory: int = 2 << 30
    max_seconds: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    structure: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    allow_pickle: bool = False
    allow_torchscript: bool = False
    seed: int = 0

    def build(self) -> nn.Module | None:
        """The model, made anew where it is given as something that makes one, in evaluation mode."""
        import torch
        from torch import nn

        if self.model is None:
            return None
        if isinstance(self.model, nn.Module):
            # The caller's module keeps its mode.
            model = copy.deepcopy(self.model) if any(m.training for m in self.model.modules()) else self.model
        elif isinstance(self.model, str):
            from deepstruct.factory import build_model

            model = build_model(self.model, self.seed)
        elif callable(self.model):
            torch.manual_seed(self.seed)
            model = self.model()
        else:
            raise InputError(f"model is of type {type(self.model).__name__}; pass a module, a function or its name")
        if not isinstance(model, nn.Module):
            raise InputError(f"the model factory returned a {type(model).__name__}, no torch.nn.Module")
        return model.eval()

    def describe(self) -> dict[str, Any]:
        """The question as values that JSON can hold; inputs by shape, dtype and a hash of their values."""
        return {
            "model": _name(self.model),
            "inputs": _inputs(self.example_input), "kwargs": _inputs(self.example_kwargs or None),
            "orders": list(self.orders),
            "metrics": list(self.metrics) if isinstance(self.metrics, tuple) else self.metrics,
            "analyzer": self.analyzer, "max_memory": self.max_memory, "max_seconds": self.max_seconds,
            "settings": _plain(self.settings), "structure": _plain(self.structure), "options": _plain(self.options),
            "allow_pickle": self.allow_pickle, "allow_torchscript": self.allow_torchscript,
        }  # fmt: skip


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a configuration, whatever the order of its keys."""
    text = json.dumps(config, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _name(model: Any) -> str | None:
    if model is None or isinstance(model, str):
        return model
    kind = model if hasattr(model, "__qualname__") else type(model)
    return f"{kind.__module__}:{kind.__qualname__}"


def _plain(value: Any) -> Any:
    from deepstruct.report.serial import plain

    return plain(dict(value))


def _inputs(value: Any) -> Any:
    import torch

    from deepstruct.checkpoints.reading import tensor_hash

    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), tensor_hash(value).hex()]
    if isinstance(value, Mapping):
        return {str(key): _inputs(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inputs(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(type(value))
