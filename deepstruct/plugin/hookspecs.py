"""The hooks that a plugin may implement.

Every hook returns values; nothing is registered by mutation. An implementation may take fewer arguments
than the hook offers. Hooks are called for one plugin at a time, so that an error in one of them costs
that plugin's contribution and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from deepstruct.plugin.markers import hookspec

if TYPE_CHECKING:
    import click
    from torch import Tensor, nn

    from deepstruct.metrics.base import Analyzer, Metric
    from deepstruct.plugin.context import HookContext
    from deepstruct.plugin.events import BatchInfo, BatchSummary, CheckpointOutcome
    from deepstruct.plugin.protocols import Executor, Renderer, Sink


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
def deepstruct_checkpoint_model(tensors: Mapping[str, Tensor], path: str, ctx: HookContext) -> nn.Module | None:
    """The module that a checkpoint belongs to, or None: for checkpoints that tell their architecture.

    Called with the state of the checkpoint (after unwrapping) when the user gave no model. The module need
    not hold the weights: they are loaded into it. The first plugin that returns a module decides.
    """


@hookspec
def deepstruct_executors(ctx: HookContext) -> Iterable[Executor]:  # type: ignore[empty-body]
    """Executors: where the checkpoints of a batch are worked on (`deepstruct.plugin.protocols.Executor`)."""


@hookspec
def deepstruct_renderers(ctx: HookContext) -> Iterable[Renderer]:  # type: ignore[empty-body]
    """Renderers: documents made of a report (`deepstruct.plugin.protocols.Renderer`)."""


@hookspec
def deepstruct_sinks(ctx: HookContext) -> Iterable[Sink]:  # type: ignore[empty-body]
    """Sinks: where the rows of a batch go as they come (`deepstruct.plugin.protocols.Sink`)."""


@hookspec
def deepstruct_batch_started(batch: BatchInfo, ctx: HookContext) -> None:
    """A batch begins. Called in the process that the user started, as are the two hooks below.

    What these three raise is recorded and never ends the batch; they are called again for the next one.
    """


@hookspec
def deepstruct_checkpoint_done(batch: BatchInfo, outcome: CheckpointOutcome, ctx: HookContext) -> None:
    """A checkpoint is done, or has failed; its rows are in the store already."""


@hookspec
def deepstruct_batch_finished(batch: BatchInfo, summary: BatchSummary, ctx: HookContext) -> None:
    """A batch has ended: all was done, or it was interrupted."""


@hookspec
def deepstruct_commands(cli: click.Group) -> None:
    """Commands for the command line: add them to `cli`, a group of the plugin's own.

    They appear beside the built-in commands, which cannot be replaced.
    """
