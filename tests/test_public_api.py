"""Public names do not vanish, and do not appear, unnoticed.

After a change that is meant: `python tests/test_public_api.py` writes the file anew.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

SURFACE = Path(__file__).with_name("api_surface.json")
MODULES = (
    "deepstruct",
    "deepstruct.errors",
    "deepstruct.plugin",
    "deepstruct.plugin.events",
    "deepstruct.plugin.hookspecs",
    "deepstruct.plugin.protocols",
    "deepstruct.pruning",
    "deepstruct.dataset",
    "deepstruct.functional",
    "deepstruct.graph",
    "deepstruct.recurrent",
    "deepstruct.scalable",
    "deepstruct.sparse",
    "deepstruct.transform",
    "deepstruct.util",
    "deepstruct.checkpoints",
    "deepstruct.metrics.base",
    "deepstruct.report",
    "deepstruct.structure.graph",
    "deepstruct.structure.rules",
    "deepstruct.testing",
    "deepstruct.testing.pytest_plugin",
    "deepstruct.trace",
)


def surface() -> dict[str, dict[str, str]]:
    """Public names of each module: parameters of functions, public members of classes, "" for the rest."""
    return {name: _names(importlib.import_module(name)) for name in MODULES}


def _names(module) -> dict[str, str]:
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    return {name: _shape(getattr(module, name)) for name in sorted(names)}


def _shape(value) -> str:
    if inspect.isclass(value):
        members = [name for name in vars(value) if not name.startswith("_")]
        fields = list(getattr(value, "__dataclass_fields__", {}))
        return "class " + " ".join(sorted({*members, *fields}))
    if inspect.isfunction(value):
        return "function " + " ".join(inspect.signature(value).parameters)
    return ""


@pytest.mark.parametrize("module", MODULES)
def test_the_public_names_are_those_of_the_file(module) -> None:
    expected = json.loads(SURFACE.read_text())[module]
    actual = surface()[module]
    assert actual == expected, "meant? then run: python tests/test_public_api.py"


def test_everything_that_is_listed_exists() -> None:
    import deepstruct

    for name in deepstruct.__all__:
        assert getattr(deepstruct, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        deepstruct.analyse  # noqa: B018


if __name__ == "__main__":
    SURFACE.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {SURFACE}")
