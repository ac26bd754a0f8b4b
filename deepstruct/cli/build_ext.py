"""`deepstruct build-ext`: the compiled kernels, built for this machine's Python and torch."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command("build-ext", short_help="Compile the kernels of graphs and of sparse layers.")
@click.option("--only", type=click.Choice(["graph", "masked", "cuda"]), help="One of the three libraries.")
@click.option(
    "--target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the library named by --only goes; without it, into the package, or else into the user's cache.",
)
def build_ext(only: str | None, target: Path | None) -> None:
    """Compile the kernels with the C++ compiler of this machine (CXX, c++, g++).

    There are three libraries: the passes over graphs (graph), and the layers with masks on the CPU (masked) and on
    GPUs (cuda, which takes nvcc and a torch with CUDA). Each replaces an older one in a single step, and is loaded
    once to see that it works. Without them, everything runs on PyTorch alone.
    """
    from deepstruct._build import BuildError
    from deepstruct.errors import DeepstructError

    if target is not None and only is None:
        raise click.UsageError("--target names one library: say which with --only graph or --only masked")
    for kind, make in (("graph", _graph), ("masked", _masked), ("cuda", _cuda)):
        if only not in (None, kind):
            continue
        if kind == "cuda" and only is None and (reason := _no_cuda()):
            click.echo(f"cuda: left out ({reason})")
            continue
        try:
            place, isa = make(target)
        except BuildError as error:
            raise DeepstructError(f"the {kind} kernels were not built: {error}") from error
        click.echo(f"wrote {place} (instruction set: {isa})")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _graph(target: Path | None) -> tuple[Path, str]:
    from deepstruct import _native
    from deepstruct._build import build_graph, extension_name, user_folder

    place = target or _native.installed_path()
    if target is None and not os.access(place.parent, os.W_OK):
        place = user_folder() / extension_name("_graph")
    build_graph(place, say=_say)
    return place, _native.try_loading(place)


def _masked(target: Path | None) -> tuple[Path, str]:
    from deepstruct.sparse.build import build
    from deepstruct.sparse.install import default_target, try_loading

    place = target or default_target()
    build(place, say=_say)
    return place, try_loading(place)


def _no_cuda() -> str | None:
    """Why a machine has no use for the CUDA kernels, where it has none: then they are no failure."""
    from deepstruct.sparse import cuda

    return cuda.missing()


def _cuda(target: Path | None) -> tuple[Path, str]:
    from deepstruct.sparse import cuda

    place = cuda.build(target)
    _say("compiled masked/cuda")
    return place, ", ".join(f"sm_{architecture}" for architecture in cuda.ARCHITECTURES)
