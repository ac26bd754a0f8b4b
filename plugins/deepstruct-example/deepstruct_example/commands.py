"""`deepstruct tensors FILE`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="List the tensors of a checkpoint.")
@click.argument("file", type=click.Path(path_type=Path))
def tensors(file: Path) -> None:
    """List the tensors of the model state in a checkpoint: shape, share of non-zeros, name."""
    from deepstruct.checkpoints import load_state_dict

    for name, tensor in load_state_dict(file).items():
        share = int(tensor.count_nonzero()) / max(tensor.numel(), 1)
        click.echo(f"{'x'.join(map(str, tensor.shape)) or 'scalar':>16}  {share:6.1%}  {name}")
