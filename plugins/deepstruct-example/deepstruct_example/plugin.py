"""The hooks. What is heavy is imported in them: deepstruct imports this module at the first analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepstruct import hookimpl

if TYPE_CHECKING:
    import click

deepstruct_api = 1


@hookimpl
def deepstruct_rules() -> list[Any]:
    """How `exchange` wires units."""
    from deepstruct.structure.rules import Rule
    from deepstruct_example.exchange import wire_exchange

    return [Rule("deepstruct_example::exchange", wire_exchange)]


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """One metric, for the analyzer `operator`."""
    from deepstruct_example.metrics import WEIGHT_REUSE

    return [WEIGHT_REUSE]


@hookimpl
def deepstruct_checkpoint_readers() -> list[Any]:
    """A reader of .npz files."""
    from deepstruct_example.readers import NumpyReader

    return [NumpyReader()]


@hookimpl
def deepstruct_commands(cli: click.Group) -> None:
    """`deepstruct tensors FILE`."""
    from deepstruct_example.commands import tensors

    cli.add_command(tensors)
