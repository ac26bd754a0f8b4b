"""From "package.module:factory" or "path/to/file.py:factory" to a model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deepstruct.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def build_model(spec: str, seed: int = 0) -> nn.Module:
    """The model that `spec` names: an instance, or what a class or function without arguments makes.

    Random weights are drawn after seeding torch with `seed`. Raises InputError when the module, the
    name or the model is missing, or when making it fails.
    """
    import torch
    from torch import nn

    target = _attribute(spec)
    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise InputError(f"{spec} is a {type(target).__name__}, neither a model nor something that makes one")
    torch.manual_seed(seed)
    try:
        model = target()
    except Exception as error:
        raise InputError(
            f"{spec}() raised {type(error).__name__}: {error}; "
            "a factory is called without arguments: wrap it in a function that passes them"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec}() returned a {type(model).__name__}, where a torch.nn.Module is expected")
    return model


def _attribute(spec: str) -> Any:
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise InputError(f"{spec!r} names no model: write package.module:factory or path/to/file.py:factory")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            known = [key for key in vars(module) if not key.startswith("_")] if target is module else []
            listed = f"; it has {', '.join(known[:12])}" if known else ""
            raise InputError(f"{place} has no {name!r}{listed}")
        target = getattr(target, part)
    return target


def _from_name(name: str) -> ModuleType:
    # A console script does not have the working directory on its path, as `python -m` does.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(f"there is no module {name!r} here or among the installed packages") from error
        raise InputError(f"importing {name} failed: {error}") from error
    except Exception as error:
        raise InputError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # so that the file can import its neighbours
        sys.path.insert(0, folder)
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name; an installed module of that name stays.
    sys.modules.setdefault(name, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"running {path} failed: {type(error).__name__}: {error}") from error
    return module
