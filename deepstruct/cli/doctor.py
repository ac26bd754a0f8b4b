"""`deepstruct doctor`: what this installation has, in a form to paste into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import click

from deepstruct import __version__
from deepstruct.cli.plugins import inspected_host

PACKAGES = ("torch", "numpy", "scipy", "networkx", "igraph", "pluggy", "click", "rich")
EXTRAS = ("pandas", "matplotlib", "scikit-learn", "safetensors", "transformers", "timm", "torchvision")


@click.command(short_help="Show versions and the state of this installation.")
def doctor() -> None:
    """Show versions, threads, compiled extensions and plugins; exit with 1 when something is broken."""
    problems = []
    _line("deepstruct", __version__)
    _line("python", f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})")
    for name in PACKAGES:
        version = _version(name)
        if version is None:
            problems.append(f"{name} is not installed, but deepstruct needs it: pip install {name}")
        _line(name, version or "missing")
    _line("optional", ", ".join(f"{name} {_version(name) or '-'}" for name in EXTRAS))
    problems += _torch()
    for name, value in [*_graph(), *_masked()]:
        _line(name, value)
    problems += _plugins()
    for problem in problems:
        click.echo(f"problem: {problem}")
    if problems:
        raise click.exceptions.Exit(1)
    click.echo("no problems found")


def _torch() -> list[str]:
    try:
        import torch
    except Exception as error:  # a broken installation is what this command is for
        return [f"torch cannot be imported: {type(error).__name__}: {error}"]
    _line("cpu", torch.backends.cpu.get_cpu_capability())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    _line("threads", f"{torch.get_num_threads()} for torch, on {cores} cores")
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "not available"
    _line("cuda", cuda)
    return []


def _graph() -> list[tuple[str, str]]:
    from deepstruct import _native

    if _native.load() is None:
        return [("graph ext", f"{_native.problem()}: graphs are measured on PyTorch; `deepstruct build-ext` builds it")]
    try:
        from deepstruct.engine import native
    except ImportError as error:  # of torch, which has a line of its own
        return [("graph ext", f"cannot be imported: {error}")]
    return [("graph ext", str(native.path())), ("graph isa", f"{native.isa()}, {native.threads()} threads")]


def _masked() -> list[tuple[str, str]]:
    # Measures the crossover if this machine has none yet: a few seconds, once.
    try:
        from deepstruct.sparse.install import report

        return report()
    except ImportError as error:
        return [("masked ext", f"cannot be imported: {error}")]


def _plugins() -> list[str]:
    records = inspected_host().records()
    states = {state: sum(r.state == state for r in records) for state in ("ok", "failed", "conflict", "disabled")}
    _line("plugins", ", ".join(f"{count} {state}" for state, count in states.items() if count) or "none")
    return [
        f"plugin {record.name} ({record.provider}): {record.error}"
        for record in records
        if record.state in ("failed", "conflict")
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(name: str, value: str) -> None:
    click.echo(f"{name:<14} {value}")
