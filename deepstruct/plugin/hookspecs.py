"""The hooks that a plugin may implement.

Every hook returns values; nothing is registered by mutation. An implementation may take fewer arguments
than the hook offers. Hooks are called for one plugin at a time, so that an error in one of them costs
that plugin's contribution and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from deepstruct.plugin.markers import hookspec

if TYPE_CHECKING:
    import click
    from torch import nn

    from deepstruct.metrics.base import Analyzer, Metric
    from deepstruct.plugin.context import HookContext


@hookspec
def deepstruct_rules(ctx: HookContext) -> Iterable[Any]:  # type: ignore[empty-body]
    """Structure rules: how operations and layer types wire units.

    Returns rules bound to a type, to the name of a type ("package.module:Class", so that nothing is
    imported before it is needed), to a composite function or to an ATen operation.
    """


@hookspec
def deepstruct_rule_for(module: nn.Module, path: str, ctx: HookContext) -> Any | None:
    """A rule for one module instance, or None: for what only the instance tells (wrapped, quantised).

    The first plugin that returns a rule decides.
    """


@hookspec
def deepstruct_orders(ctx: HookContext) -> Iterable[Any]:  # type: ignore[empty-body]
    """Transformers from a traced model to its structure graph, one for each order of structure."""


@hookspec
def deepstruct_analyzers(ctx: HookContext) -> Iterable[Analyzer]:  # type: ignore[empty-body]
    """Analyzers: each prepares a view of a graph that metrics are computed on.

    What is heavy to import is imported in the analyzer when it is first used, not here.
    """


@hookspec
def deepstruct_metrics(ctx: HookContext) -> Iterable[Metric]:  # type: ignore[empty-body]
    """Metrics, each for the analyzer that it names."""


@hookspec
def deepstruct_checkpoint_readers(ctx: HookContext) -> Iterable[Any]:  # type: ignore[empty-body]
    """Readers of checkpoint files: `probe(path, head) -> 0..100` and `open(path) -> dict of tensors`."""


@hookspec
def deepstruct_commands(cli: click.Group) -> None:
    """Commands for the command line: add them to `cli`, a group of the plugin's own.

    They appear beside the built-in commands, which cannot be replaced.
    """
