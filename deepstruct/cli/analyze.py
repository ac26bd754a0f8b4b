"""`deepstruct analyze`: one model in, a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

ORDERS = "zeroth,first,second,third"


@click.command(short_help="Measure the structure of a model.")
@click.argument("model", metavar="MODULE:FACTORY")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]SHAPE[:DTYPE]",
    help="Shape of an example input, such as 1,3,224,224 or ids=1,16:int64. Several for several arguments; "
    "with a name, a keyword argument. Floats are random, integers are ones.",
)
@click.option("--dtype", default="float32", show_default=True, help="Of inputs that name none (int64 for tokens).")
@click.option("--weights", type=click.Path(path_type=Path), help="A checkpoint file to load into the model.")
@click.option("--orders", default=ORDERS, show_default=True, help="Orders of structure, separated by commas.")
@click.option("--metrics", metavar="A,B,...", help="Metrics to compute; the standard panel without it.")
@click.option("--analyzer", default="auto", show_default=True, help="auto, operator, igraph, networkx or a plugin's.")
@click.option("--threshold", default=0.0, show_default=True, help="Weights up to this magnitude are no edges.")
@click.option("--density", type=float, help="Keep this share of the weights, the largest by magnitude.")
@click.option(
    "--normalization",
    type=click.Choice(["one_to_one", "stats"]),
    default="one_to_one",
    show_default=True,
    help="How layer, group and RMS norms wire units.",
)
@click.option(
    "--attention",
    type=click.Choice(["implicit", "units"]),
    default="implicit",
    show_default=True,
    help="Attention scores by rows and columns, or a slot for each.",
)
@click.option("--max-memory", default="2GiB", show_default=True, help="Budget for explicit graphs, such as 4GB.")
@click.option("--max-seconds", type=float, help="Budget for each metric; what takes longer is skipped.")
@click.option("--null", type=int, help="Compare with this many null models: the same weights at random places.")
@click.option("--null-seed", default=0, show_default=True, help="For the random places of --null.")
@click.option(
    "--setting", "given", multiple=True, metavar="NAME=VALUE", help="A setting of metrics, such as max_operations=1e10."
)
@click.option(
    "--on-unknown",
    type=click.Choice(["error", "dense"]),
    default="error",
    show_default=True,
    help="What to do with an operation that no rule covers.",
)
@click.option("--depth", default=2, show_default=True, help="Module depth of the cells of the third order.")
@click.option(
    "--unit",
    type=click.Choice(["channel", "head"]),
    default="channel",
    show_default=True,
    help="What a node of the first order is.",
)
@click.option("--prefer", multiple=True, metavar="[KEY=]DISTRIBUTION", help="Settles a conflict of two plugins.")
@click.option("--seed", default=0, show_default=True, help="For random weights and inputs.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report as JSON.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), help="Write the report as HTML.")
@click.option(
    "--render", "documents", multiple=True, metavar="[RENDERER=]FILE",
    help="Write a document by a renderer (text, json, html, or a plugin's); without a name, by the suffix.",
)
@click.option("--quiet", is_flag=True, help="Print no table.")
def analyze(model: str, **options: Any) -> None:
    """Measure the structure of a model at up to four orders.

    MODULE:FACTORY names a model, or a class or function without arguments that makes one:
    torchvision.models:alexnet, or path/to/file.py:build. The model is put into evaluation mode.
    Without --input, one is looked for on the model (Lightning, Hugging Face and timm models have one).
    """
    from deepstruct.checkpoints import load_weights
    from deepstruct.cli.inputs import names, parse_bytes, parse_inputs, parse_settings
    from deepstruct.factory import build_model
    from deepstruct.progress import progress_bar

    max_memory = parse_bytes(options["max_memory"])
    args, kwargs = parse_inputs(options["inputs"], options["dtype"], options["seed"])
    prefer = _preferences(options["prefer"])
    chosen = parse_settings(options["given"])
    documents = [(name or None, Path(path)) for name, _, path in (d.rpartition("=") for d in options["documents"])]
    for path in (options["json_path"], options["html_path"], *(path for _, path in documents)):
        _check_writable(path)
    built = build_model(model, options["seed"])
    if options["weights"] is not None:
        load_weights(built, options["weights"])
    built.eval()

    from deepstruct.api import analyze as run

    with progress_bar("analyze") as progress:
        report = run(
            built,
            args or None,
            example_kwargs=kwargs or None,
            orders=names(options["orders"]) or (),
            metrics=names(options["metrics"]),
            analyzer=options["analyzer"],
            threshold=options["threshold"],
            density=options["density"],
            normalization=options["normalization"],
            attention=options["attention"],
            max_memory=max_memory,
            max_seconds=options["max_seconds"],
            null=options["null"],
            null_seed=options["null_seed"],
            settings=chosen or None,
            on_unknown=options["on_unknown"],
            depth=options["depth"],
            unit=options["unit"],
            prefer=prefer,
            progress=progress,
        )
    if not options["quiet"]:
        click.echo(str(report))
    if options["json_path"] is not None:
        report.to_json(options["json_path"])
        click.echo(f"wrote {options['json_path']}", err=True)
    if options["html_path"] is not None:
        report.to_html(options["html_path"])
        click.echo(f"wrote {options['html_path']}", err=True)
    for renderer, path in documents:
        report.save(path, renderer)
        click.echo(f"wrote {path}", err=True)


def _preferences(values: tuple[str, ...]) -> dict[str, str] | list[str] | None:
    from deepstruct.errors import InputError

    pairs = [value.partition("=") for value in values]
    if not any(equals for _, equals, _ in pairs):
        return [value.strip() for value in values] or None
    for value, (key, equals, distribution) in zip(values, pairs, strict=True):
        if not equals or not key or not distribution:
            raise InputError(f"--prefer {value!r}: write DISTRIBUTION each time, or KEY=DISTRIBUTION each time")
    return {key.strip(): distribution.strip() for key, _, distribution in pairs}


def _check_writable(path: Path | None) -> None:
    # Before the analysis rather than after it: nobody wants to lose an hour to a typing error.
    from deepstruct.errors import InputError

    if path is not None and not path.resolve().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.resolve().parent}")
