"""`deepstruct draw`: a picture of a model's graph at one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(short_help="Draw the graph of a model.")
@click.argument("model", metavar="MODULE:FACTORY")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .svg, .png or .pdf file."
)
@click.option(
    "--order",
    type=click.Choice(["zeroth", "first", "second", "third"]),
    default="second",
    show_default=True,
    help="What a node is: a unit, a channel, a layer or a cell.",
)
@click.option(
    "--kind",
    type=click.Choice(["auto", "layered", "matrix", "strips"]),
    default="auto",
    show_default=True,
    help="A box for each node, the adjacency matrix in cells, or the degrees of the units of each layer.",
)
@click.option("--columns", type=click.IntRange(min=1), help="Columns that a deep network is folded into.")
@click.option("--input", "inputs", multiple=True, metavar="[NAME=]SHAPE[:DTYPE]", help="As for analyze.")
@click.option("--dtype", default="float32", show_default=True, help="Of inputs that name none (int64 for tokens).")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint file to load into the model.")
@click.option("--threshold", default=0.0, show_default=True, help="Weights up to this magnitude are no edges.")
@click.option("--density", type=float, help="Keep this share of the weights, the largest by magnitude.")
@click.option("--depth", default=2, show_default=True, help="Module depth of the cells of the third order.")
@click.option("--seed", default=0, show_default=True, help="For random weights and inputs.")
def draw(model: str, out: Path, **options: Any) -> None:
    """Draw the graph of a model at one order, and write the picture to a file.

    MODULE:FACTORY and the inputs are as for `deepstruct analyze`. Layers and cells are drawn from top to bottom,
    units and channels as a matrix or as strips.
    """
    from deepstruct.api import extract
    from deepstruct.checkpoints import load_weights
    from deepstruct.cli.inputs import parse_inputs
    from deepstruct.errors import InputError
    from deepstruct.factory import build_model
    from deepstruct.progress import progress_bar
    from deepstruct.report.draw import FORMATS

    args, kwargs = parse_inputs(options["inputs"], options["dtype"], options["seed"])
    if not out.resolve().parent.is_dir():
        raise InputError(f"cannot write {out}: there is no folder {out.resolve().parent}")
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"cannot draw to {str(out)!r}: the ending must be one of {', '.join(FORMATS)}")
    built = build_model(model, options["seed"])
    if options["weights"] is not None:
        load_weights(built, options["weights"])
    built.eval()
    with progress_bar("draw") as progress:
        graph = extract(
            built, args or None, example_kwargs=kwargs or None, order=options["order"],
            threshold=options["threshold"], density=options["density"], depth=options["depth"], progress=progress,
        )  # fmt: skip
    drawing = graph.draw(out, kind=options["kind"], columns=options["columns"])
    click.echo(f"wrote {out} ({drawing.kind}, {graph.num_nodes:,} nodes, {graph.num_edges:,} edges)")
