"""`deepstruct batch`: a folder of checkpoints in, a table out."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Measure a folder of checkpoints.")
@click.argument("sources", nargs=-1, required=True, metavar="FOLDER|FILE|PATTERN|URL...")
@click.option("--model", metavar="MODULE:FACTORY", help="The model; without it, what the weights tell alone.")
@click.option("--input", "inputs", multiple=True, metavar="[NAME=]SHAPE[:DTYPE]", help="As for `deepstruct analyze`.")
@click.option("--dtype", default="float32", show_default=True, help="Of inputs that name none (int64 for tokens).")
@click.option("--orders", default="zeroth", show_default=True, help="Orders of structure, separated by commas.")
@click.option("--metrics", metavar="A,B,...", help="Metrics to compute; the standard panel without it.")
@click.option("--analyzer", help="Without it, operator for the standard panel and auto for named metrics.")
@click.option("--threshold", default=0.0, show_default=True, help="Weights up to this magnitude are no edges.")
@click.option("--density", type=float, help="Keep this share of the weights, the largest by magnitude.")
@click.option("--normalization", type=click.Choice(["one_to_one", "stats"]), default="one_to_one", show_default=True,
              help="How layer, group and RMS norms wire units.")  # fmt: skip
@click.option("--attention", type=click.Choice(["implicit", "units"]), default="implicit", show_default=True,
              help="Attention scores by rows and columns, or a slot for each.")  # fmt: skip
@click.option("--on-unknown", type=click.Choice(["error", "dense"]), default="error", show_default=True,
              help="What to do with an operation that no rule covers.")  # fmt: skip
@click.option("--depth", default=2, show_default=True, help="Module depth of the cells of the third order.")
@click.option("--unit", type=click.Choice(["channel", "head"]), default="channel", show_default=True,
              help="What a node of the first order is.")  # fmt: skip
@click.option("--max-memory", default="2GiB", show_default=True, help="Budget for explicit graphs, such as 4GB.")
@click.option("--max-seconds", type=float, help="Budget for each metric; what takes longer is skipped.")
@click.option("--setting", "given", multiple=True, metavar="NAME=VALUE", help="A setting of metrics.")
@click.option("--out", default="metrics.db", show_default=True, type=click.Path(path_type=Path),
              help="A store (.db), or a table (.csv, .jsonl, .parquet) with a store beside it.")  # fmt: skip
@click.option("--sink", "sinks", multiple=True, metavar="TARGET", help="Rows go there too, as they come: see the docs.")
@click.option("--workers", default=1, show_default=True, help="Processes.")
@click.option("--executor", help="in-process (one worker), local (more), or a plugin's, such as dask.")
@click.option("--scheduler", metavar="URL", help="Of the executor's cluster, such as tcp://host:8786.")
@click.option("--threads", type=int, help="Of torch in each worker; without it the cores are shared out.")
@click.option("--worker-memory", metavar="SIZE", help="What one worker of the pool may take, such as 4GB.")
@click.option("--timeout", type=float, help="Seconds after which a worker of the local pool is ended.")
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts, I from 1: for job arrays.")
@click.option("--allow-pickle", is_flag=True, help="Unpickle arbitrary objects: this RUNS CODE of the files.")
@click.option("--allow-torchscript", is_flag=True, help="Load TorchScript archives for their state.")
@click.option("--rehash", is_flag=True, help="Compare contents, not size and time, of what was done before.")
@click.option("--redo", is_flag=True, help="Do everything again.")
@click.option("--seed", default=0, show_default=True, help="For fresh weights and inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each checkpoint, and one at the end.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def batch(sources: tuple[str, ...], **options: Any) -> int:
    """Measure every checkpoint of a folder; a run that was ended goes on where it was.

    Exit code 0: all done. 1: some failed, the rest is done. 2: wrong arguments. 130: interrupted (Ctrl-C), and
    resumable by the same command.
    """
    from deepstruct.batches import batch as run
    from deepstruct.cli.inputs import names, parse_bytes, parse_inputs, parse_settings
    from deepstruct.cli.progress import Watch, print_summary

    args, kwargs = parse_inputs(options["inputs"], options["dtype"], options["seed"])
    mode = "quiet" if options["quiet"] else "json" if options["as_json"] else "live"
    if options["allow_pickle"]:
        click.echo("--allow-pickle: pickled objects of these files are loaded, and run what they say", err=True)
    results = run(
        sources,
        options["model"],
        args or None,
        example_kwargs=kwargs or None,
        orders=names(options["orders"]) or (),
        metrics=names(options["metrics"]),
        max_memory=parse_bytes(options["max_memory"]),
        settings=parse_settings(options["given"]) or None,
        worker_memory=None if options["worker_memory"] is None else parse_bytes(options["worker_memory"]),
        executor_options={} if options["scheduler"] is None else {"scheduler": options["scheduler"]},
        shard=_shard(options["shard"]),
        **{key: options[key] for key in (
            "analyzer", "threshold", "density", "normalization", "attention", "on_unknown", "depth", "unit",
            "max_seconds", "out", "workers", "executor", "threads", "timeout", "sinks", "allow_pickle",
            "allow_torchscript", "rehash", "redo", "seed",
        )},
    )  # fmt: skip
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: workers end, the store is closed
    watch = Watch(mode, len(results))
    earlier = 0
    try:
        with watch.showing():
            for result in results:
                earlier += result.earlier
                watch.tell(result)
    except KeyboardInterrupt:
        results.close()
        print_summary(results.summary, earlier, str(options["out"]), watch.failures, mode)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
        results.close()
    print_summary(results.summary, earlier, str(options["out"]), watch.failures, mode)
    return 1 if watch.bad else 0


def _shard(text: str | None) -> tuple[int, int] | None:
    from deepstruct.errors import InputError

    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.strip().isdigit() and count.strip().isdigit()):
        raise InputError(f"--shard {text!r}: write I/N, such as 3/16")
    return int(index), int(count)
