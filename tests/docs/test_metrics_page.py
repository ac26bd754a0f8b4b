"""docs/metrics.md lists exactly what is built in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def generator():
    spec = importlib.util.spec_from_file_location("generate_metrics", DOCS / "generate_metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    module = generator()
    assert module.PAGE.read_text() == module.current(), "run: python docs/generate_metrics.py"


def test_every_metric_has_a_definition() -> None:
    from deepstruct.plugin import Host

    metrics = Host(entry_points=False).registry().metrics
    assert len(metrics) > 50
    assert [m.name for m in metrics if not m.definition] == []
