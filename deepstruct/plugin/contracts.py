"""What the values that hooks return have to look like.

Apart from rules, which are one class, the checks look at attributes, so that a plugin needs no base
class of ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = Callable[[Any], str | None]

MOST = 100_000
"""How many values one hook may return."""


def contributions(values: Any, check: Check) -> list[Any]:
    """The values of a collecting hook as a list; TypeError when they are not what the hook is for.

    None stands for nothing to contribute.
    """
    if values is None:
        return []
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"returned {_what(values)}, where a list is expected")
    items = list(itertools.islice(values, MOST + 1))
    if len(items) > MOST:
        raise TypeError(f"returned more than {MOST} values, perhaps without end")
    for item in items:
        problem = check(item)
        if problem:
            raise TypeError(f"returned {_what(item)}, {problem}")
    return items


def check_rule(item: Any) -> str | None:
    """None, or why this is no structure rule."""
    from deepstruct.structure.rules.base import Rule

    return None if isinstance(item, Rule) else _plain(item) or f"which is no {Rule.__module__}.Rule"


def check_order(item: Any) -> str | None:
    """None, or what an order transformer lacks."""
    return _plain(item) or _named(item) or _needs(item, callables=("build",))


def check_analyzer(item: Any) -> str | None:
    """None, or what an analyzer lacks (see `deepstruct.metrics.base.Analyzer`)."""
    return (
        _plain(item)
        or _named(item)
        or _needs(item, callables=("available", "estimate", "prepare"), attributes=("priority",))
    )


def check_metric(item: Any) -> str | None:
    """None, or what a metric lacks (see `deepstruct.metrics.base.Metric`)."""
    return (
        _plain(item) or _named(item) or _needs(item, callables=("compute",), attributes=("analyzer", "scope", "orders"))
    )


def check_reader(item: Any) -> str | None:
    """None, or what a checkpoint reader lacks (see `deepstruct.checkpoints.readers.Reader`)."""
    return _plain(item) or _named(item) or _needs(item, callables=("probe", "open"))


def check_executor(item: Any) -> str | None:
    """None, or what an executor lacks (see `deepstruct.plugin.protocols.Executor`)."""
    return _plain(item) or _named(item) or _needs(item, callables=("available", "run"))


def check_renderer(item: Any) -> str | None:
    """None, or what a renderer lacks (see `deepstruct.plugin.protocols.Renderer`)."""
    return _plain(item) or _named(item) or _needs(item, callables=("render",), attributes=("suffixes",))


def check_sink(item: Any) -> str | None:
    """None, or what a sink lacks (see `deepstruct.plugin.protocols.Sink`)."""
    return _plain(item) or _named(item) or _needs(item, callables=("accepts", "open"))


def check_module(item: Any) -> str | None:
    """None, or why this is no module."""
    from torch import nn

    return None if isinstance(item, nn.Module) else _plain(item) or "which is no torch.nn.Module"


def _plain(item: Any) -> str | None:
    if item is None or isinstance(item, (str, bytes, int, float, complex, Mapping)):
        return "which is a plain value"
    return "which is a class: return an instance" if isinstance(item, type) else None


def _named(item: Any) -> str | None:
    name = getattr(item, "name", None)
    return None if isinstance(name, str) and name else "which has no name"


def _needs(item: Any, callables: tuple[str, ...] = (), attributes: tuple[str, ...] = ()) -> str | None:
    for name in callables:
        if not callable(getattr(item, name, None)):
            return f"which has no method {name}()"
    for name in attributes:
        if not hasattr(item, name):
            return f"which has no attribute {name!r}"
    return None


def _what(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"a value of type {name}"
