"""The state of a model, of an input and of the process: what an analysis must leave as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as internals
from torch.nn.parameter import is_lazy

GLOBAL_HOOKS = [name for name in vars(internals) if name.startswith("_global_") and name.endswith("hooks")]


def _bytes(tensor: torch.Tensor) -> Any:
    """The contents of a tensor, as one number; NaNs compare equal."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return hash(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()) if tensor.numel() else 0


def _tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    if is_lazy(tensor):
        return (id(tensor), type(tensor), tensor.dtype)
    grad = tensor.grad if tensor.is_leaf else None
    facts = (id(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad, id(grad), _bytes(tensor))
    plain = tensor.layout == torch.strided and not tensor.is_meta
    return (*facts, tensor.data_ptr(), tensor.stride()) if plain else facts


def _module(module: nn.Module) -> dict[str, Any]:
    facts: dict[str, Any] = {"class": type(module), "attributes": list(module.__dict__)}
    for name, value in module.__dict__.items():
        if name in ("_parameters", "_buffers"):
            facts[name] = {key: None if t is None else _tensor(t) for key, t in value.items()}
        elif isinstance(value, dict):
            facts[name] = [(key, id(item)) for key, item in value.items()]
        elif isinstance(value, torch.Tensor):
            facts[name] = _tensor(value)
        elif isinstance(value, (list, set)):
            facts[name] = (id(value), [id(item) for item in value])
        else:
            facts[name] = (id(value), repr(value) if isinstance(value, (int, float, str, tuple, bool)) else None)
    return facts


def state_of(model: Any, *inputs: Any) -> dict[str, Any]:
    """Everything that `untouched` compares, by name."""
    facts: dict[str, Any] = {
        "torch random state": hash(torch.random.get_rng_state().numpy().tobytes()),
        "python random state": hash(random.getstate()),
        "numpy random state": hash(
            str([s.tolist() if isinstance(s, np.ndarray) else s for s in np.random.get_state()])
        ),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "attention fast path": torch.backends.mha.get_fastpath_enabled(),
        "global hooks": {name: list(getattr(internals, name)) for name in GLOBAL_HOOKS},
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "function modes": torch._C._len_torch_function_stack(),
    }
    if isinstance(model, nn.Module):
        for path, module in model.named_modules():
            facts[f"module {path!r}"] = _module(module)
    for k, value in enumerate(inputs):
        facts[f"input {k}"] = _tensor(value) if isinstance(value, torch.Tensor) else repr(value)
    return facts


@contextmanager
def untouched(model: Any, *inputs: Any) -> Iterator[None]:
    """Checks that the block changes nothing, whether it raises or not."""
    before = state_of(model, *inputs)
    try:
        yield
    finally:
        after = state_of(model, *inputs)
        assert before.keys() == after.keys()
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, f"changed: {changed}: {[(before[n], after[n]) for n in changed][:2]}"
