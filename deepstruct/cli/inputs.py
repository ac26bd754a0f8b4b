"""Example inputs and sizes as they are written on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError

if TYPE_CHECKING:
    import torch

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_inputs(specs: Sequence[str], dtype: str, seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword tensors from specs such as "1,3,224,224", "1,16:int64" or "ids=1,16:int64".

    Floating inputs are drawn from a normal distribution with `seed`; integers and booleans are ones
    (a valid token, and a mask that hides nothing).
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for spec in specs:
        name, equals, rest = spec.rpartition("=")
        if equals and not name.isidentifier():
            raise InputError(f"input {spec!r}: {name!r} is no argument name")
        if name in named:
            raise InputError(f"input {name!r} is given twice")
        shape, _, own = rest.partition(":")
        tensor = _tensor(_shape(shape, spec), _dtype(own or dtype), seed + len(positional) + len(named))
        if equals:
            named[name] = tensor
        else:
            positional.append(tensor)
    return tuple(positional), named


def parse_bytes(text: str) -> int:
    """Bytes from "4GB", "512MiB", "2g" or a plain number: decimal units, binary ones with an i."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS:
        raise InputError(f"{text!r} is no size: write 512MB, 4GB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_settings(specs: Sequence[str]) -> dict[str, Any]:
    """Settings from NAME=VALUE; a value is read as JSON where it is some, and is a string otherwise."""
    found: dict[str, Any] = {}
    for spec in specs:
        name, equals, text = spec.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--setting {spec!r}: write NAME=VALUE, such as max_operations=1e10")
        try:
            found[name.strip()] = json.loads(text)
        except ValueError:
            found[name.strip()] = text.strip()
    return found


def names(text: str | None) -> tuple[str, ...] | None:
    """The parts of a comma-separated list; None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _shape(text: str, spec: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in re.split(r"[,x]", text.strip(" ,")) if part.strip())
    except ValueError:
        raise InputError(f"input {spec!r} is no shape: write for example 1,3,224,224 or ids=1,16:int64") from None
    if not shape or min(shape) < 1:
        raise InputError(f"input {spec!r} needs at least one size, and every size at least 1")
    return shape


def _dtype(name: str) -> torch.dtype:
    import torch

    dtype = getattr(torch, name.strip().removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{name!r} is no dtype: write for example float32, int64 or bool")
    return dtype


def _tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    import torch

    if dtype.is_floating_point or dtype.is_complex:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.ones(shape, dtype=dtype)
