"""What several metrics of one view need is computed once, and kept as long as the view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine.steps import Steps

T = TypeVar("T")
_kept: WeakKeyDictionary[OperatorView, dict[str, Any]] = WeakKeyDictionary()


def once(view: OperatorView, key: str, compute: Callable[[], T]) -> T:
    """`compute()`, remembered under `key` for as long as the view lives."""
    mine = _kept.setdefault(view, {})
    if key not in mine:
        mine[key] = compute()
    value: T = mine[key]
    return value


def need_units(view: OperatorView, what: str) -> None:
    """Leave a metric that needs a slot for every unit to the explicit graph, where some have none."""
    view.need_explicit_units(what)


def steps(view: OperatorView, what: str) -> Steps:
    """Single steps through the view's graph, for a metric that needs a slot for every unit."""
    need_units(view, what)
    return once(view, "steps", lambda: Steps(view.graph))
