"""`deepstruct demo`: networks on real digits, pruned step by step, measured from their checkpoints."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Train, prune and measure two networks on real digits.")
@click.option("--out", default="demo-output", show_default=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", default=8, show_default=True, type=click.IntRange(2, 40), help="Pruning steps per network.")
@click.option("--quick", is_flag=True, help="Fewer steps and epochs, for a first look.")
def demo(out: Path, steps: int, quick: bool) -> None:
    """Train a small CNN and an MLP on scikit-learn's digits while pruning them by magnitude.

    A checkpoint of every step goes into a folder; the structure is then measured from the files of that
    folder, and shown beside the accuracy as sparsity grows. Writes a table, a picture and an HTML page.
    """
    from deepstruct.demo.run import run_demo
    from deepstruct.progress import progress_bar

    with progress_bar("demo") as progress:
        result = run_demo(out, steps=steps, quick=quick, progress=progress)
    result.print()
