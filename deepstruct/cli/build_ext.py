"""`deepstruct build-ext`: the compiled kernels, built for this machine's torch."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("build-ext", short_help="Compile the kernels of the sparse layers.")
@click.option(
    "--target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the library goes; without it, into the package, or else into the user's cache.",
)
def build_ext(target: Path | None) -> None:
    """Compile the kernels of the sparse layers with the C++ compiler of this machine (CXX, c++, g++).

    The library replaces an older one in a single step, and is loaded once to see that it works. Without it,
    everything runs on PyTorch alone.
    """
    from deepstruct.errors import DeepstructError
    from deepstruct.sparse.build import BuildError, build
    from deepstruct.sparse.install import default_target, try_loading

    place = target or default_target()
    try:
        build(place, say=lambda line: click.echo(line, err=True))
        isa = try_loading(place)
    except BuildError as error:
        raise DeepstructError(f"the kernels were not built: {error}") from error
    click.echo(f"wrote {place} (instruction set: {isa})")
