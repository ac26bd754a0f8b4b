"""`deepstruct drift`: what changed between checkpoints of one architecture."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Compare the weights of checkpoints.")
@click.argument("files", nargs=-1, required=True, metavar="A B [C...]", type=click.Path(path_type=Path))
@click.option("--rank", default=8, show_default=True, help="Leading singular values and vectors that are compared.")
@click.option("--threshold", default=0.0, show_default=True, help="Weights up to this magnitude are no connections.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the comparison as JSON.")
@click.option("--quiet", is_flag=True, help="Print no table.")
def drift(files: tuple[Path, ...], rank: int, threshold: float, json_path: Path | None, quiet: bool) -> None:
    """What changed from checkpoint A to checkpoint B (to C, ...), layer by layer.

    Files of torch.save, safetensors, or what a plugin reads, in the order of time. Weights are matched by name; no
    model is needed.
    """
    from deepstruct.errors import InputError
    from deepstruct.report.serial import dumps
    from deepstruct.trajectory import drift as run

    if len(files) < 2:
        raise InputError("a comparison takes two checkpoints at least: deepstruct drift A B")
    if json_path is not None and not json_path.resolve().parent.is_dir():
        raise InputError(f"cannot write {json_path}: there is no folder {json_path.resolve().parent}")
    names = [file.name for file in files]
    labels = names if len(set(names)) == len(names) else [str(file) for file in files]
    found = run(*files, rank=rank, threshold=threshold, labels=labels)
    if not quiet:
        click.echo(repr(found))
    if json_path is not None:
        json_path.write_text(dumps(found.to_dict()) + "\n", encoding="utf-8")
        click.echo(f"wrote {json_path}", err=True)
