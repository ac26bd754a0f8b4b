"""A sample of the wide zoo, as the page on coverage measures it; and models after a trace that failed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from deepstruct.errors import TraceError
from deepstruct.trace import trace
from tests.zoo.everything import everything
from tests.zoo.measure import ORDERS, measure
from tests.zoo.registry import WIDE, Architecture
from tests.zoo.untouched import changes, facts

pytestmark = pytest.mark.zoo
DOCS = Path(__file__).resolve().parents[2] / "docs"
SAMPLE = [kind for kind in WIDE if kind.sample]

# what the oracle cannot be asked about: the output that it looks at depends on nothing, or the replay does not run
SILENT = {"awkward/numpy_hop", "awkward/spatial_transformer"}


@pytest.mark.parametrize("kind", SAMPLE, ids=str)
def test_analysed_contained_and_untouched(kind: Architecture) -> None:
    result = measure(kind, outputs=3)
    assert result["errors"] == {}
    assert set(result["orders"]) == set(ORDERS)
    assert all(found["nodes"] > 0 for found in result["orders"].values())
    assert result["untouched"]
    assert result["contained"] is True or kind.oracle or kind.name in SILENT


class Stop(Exception):
    """What a forward pass raises at its very end."""


@pytest.mark.parametrize("kind", SAMPLE, ids=str)
def test_untouched_after_a_failure(kind: Architecture) -> None:
    """The model raises at its end: state, attributes, caches, flags and generators are as they were, in both modes."""
    model, example = kind.make()
    hook = model.register_forward_hook(_stop)
    before = facts(model)
    for mode in ("fake", "real"):
        with pytest.raises(TraceError):
            trace(model, example, mode=mode)
        assert changes(before, facts(model)) == []
    hook.remove()
    with torch.no_grad():
        _call(model, example)  # and it runs


def _stop(*_: object) -> None:
    raise Stop("on purpose")


def _call(model: nn.Module, example: object) -> None:
    if isinstance(example, dict):
        model(**example)
    elif isinstance(example, tuple):
        model(*example)
    else:
        model(example)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_coverage", DOCS / "generate_coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_results() -> None:
    module = generator()
    assert module.PAGE.read_text() == module.current(), "run: python docs/generate_coverage.py --page"


def test_what_was_wanted_of_the_zoo() -> None:
    """Two hundred architectures and more; 99 % at second order, 97 % at zeroth; nothing contradicts the oracle."""
    rows = generator().load().values()
    names, measured = {kind.name for kind in everything()}, {row["name"] for row in rows}
    assert measured <= names
    assert len(measured) >= 0.98 * len(names), "run: python docs/generate_coverage.py"
    assert len(rows) >= 200
    assert sum("second" in row["orders"] for row in rows) >= 0.99 * len(rows)
    assert sum("zeroth" in row["orders"] for row in rows) >= 0.97 * len(rows)
    assert [row["name"] for row in rows if row.get("contained") is False] == []
    assert [row["name"] for row in rows if row["orders"] and not row.get("untouched")] == []


def test_a_process_that_takes_too_much_is_a_result(tmp_path: Path) -> None:
    """Time, memory and a crash each end one architecture, with a reason, and not the run."""
    module = generator()

    def waits() -> tuple[nn.Module, torch.Tensor]:
        while True:
            pass

    def grows() -> tuple[nn.Module, torch.Tensor]:
        return nn.Linear(40_000, 40_000), torch.zeros(1, 40_000)

    def raises() -> tuple[nn.Module, torch.Tensor]:
        raise ValueError("no such model")

    for build, words in ((waits, "processor time"), (grows, "memory"), (raises, "no such model")):
        kind = Architecture(build.__name__, "", build)
        result = module.run_apart(kind, seconds=3, gigabytes=2)
        assert words in " ".join(result["errors"].values()), result
        assert json.loads(json.dumps(result))["orders"] == {}
