"""Everything of a model that a trace could change, in a form that can be compared."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

Facts = dict[str, Any]
_DEPTH = 6


def facts(model: nn.Module) -> Facts:
    """Attribute path -> what is there: types and bytes of tensors, contents of containers, flags, modes."""
    found: Facts = {}
    for path, module in model.named_modules(remove_duplicate=True):
        for name, value in vars(module).items():
            found.update(_describe(f"{path}:{name}", value, _DEPTH))
    found["random: torch"] = _digest(torch.get_rng_state())
    found["random: python"] = hash(random.getstate())
    found["random: numpy"] = hash(np.random.get_state()[1].tobytes())  # type: ignore[union-attr]
    found["gradients"] = torch.is_grad_enabled()
    found["call"] = id(nn.Module.__call__)
    return found


def changes(before: Facts, after: Facts) -> list[str]:
    """What is not as it was, in words."""
    gone = [f"{key} is gone" for key in before if key not in after]
    new = [f"{key} is new" for key in after if key not in before]
    return gone + new + [f"{key} differs" for key in before if key in after and before[key] != after[key]]


def _describe(path: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, torch.Tensor):
        yield path, (type(value).__name__, id(value), value.requires_grad, tuple(value.shape), _digest(value))
    elif isinstance(value, nn.Module):
        yield path, id(value)
    elif isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)) or value is None:
        yield path, repr(value)
    elif isinstance(value, Mapping) and depth:
        yield path, (type(value).__name__, len(value))
        for key, item in value.items():
            yield from _describe(f"{path}[{key!r}]", item, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and depth:
        yield path, (type(value).__name__, len(value))
        if not isinstance(value, (set, frozenset)):
            for k, item in enumerate(value):
                yield from _describe(f"{path}[{k}]", item, depth - 1)
    else:
        yield path, id(value)


def _digest(tensor: torch.Tensor) -> str:
    """Of the bytes; of the shape alone where a tensor has none."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return repr(tuple(tensor.shape))
    flat = tensor.detach().contiguous().view(-1)
    raw = flat.view(torch.uint8) if flat.numel() else flat
    return hashlib.blake2b(raw.numpy().tobytes(), digest_size=8).hexdigest()
