"""Writes the table of docs/settings.md from what is built in: `python docs/generate_settings.py`.

A test compares the page with what this makes, so that it cannot fall behind.
"""

from __future__ import annotations

from pathlib import Path

from deepstruct.metrics.settings import SETTINGS

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings and budgets

`deepstruct.analyze(model, ..., settings={"name": value})`, or `--setting name=value` in a terminal. A name that
nothing reads is an error, with the names that are near. This page is made by `python docs/generate_settings.py`.

| setting | default | meaning |
|---|---|---|
"""

TAIL = """
Plugins declare theirs as `Metric(..., settings=(Setting(name, default, definition),))`, or as an attribute `settings`
of an analyzer (`deepstruct.metrics.base.Setting`).

## Budgets

- `max_memory=` (bytes, `--max-memory 4GB`): what one analyzer's view of a graph may take. What needs more is skipped,
  with its estimate.
- `max_seconds=` (`--max-seconds 30`): what one metric may take. Passes over the operators, iterations, samples and
  floods ask between their steps whether there is time left. A metric that has none is skipped, with the seconds
  spent; an iteration may hand back its last iterate instead, marked as not converged. Nothing is killed: one call of
  igraph or networkx runs to its end, and its value is kept. The first metric of an analyzer pays for its view.
- `settings={"max_operations": ...}`: elementary steps, known before a metric starts.

```python
import torch
from torch import nn

import deepstruct

model = nn.Linear(4, 3).eval()
report = deepstruct.analyze(model, torch.randn(1, 4), orders="zeroth", max_seconds=30, max_memory=1 << 30)
assert report["zeroth"]["edges"] == 12

try:
    deepstruct.analyze(model, torch.randn(1, 4), settings={"max_operation": 1e9})
except deepstruct.InputError as error:
    assert "did you mean max_operations" in str(error)
```

Whoever writes a metric with a long loop calls `deepstruct.engine.budget.check()` once a round (it raises
`deepstruct.BudgetError` when the time is used up), or asks `budget.expired()` and returns
`Measured(value, exact=False, converged=False)`.
"""


def current() -> str:
    """The text of the page for what is built in now."""
    rows = "".join(f"| `{s.name}` | {s.default} | {s.definition} |\n" for s in sorted(SETTINGS, key=lambda s: s.name))
    return HEAD + rows + TAIL


if __name__ == "__main__":
    PAGE.write_text(current())
    print(f"wrote {PAGE}")
