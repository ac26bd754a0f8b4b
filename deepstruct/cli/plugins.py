"""`deepstruct plugins`: what is installed, what works, and why the rest does not."""

from __future__ import annotations

import io
import json
import sys

import click

from deepstruct.plugin import Host, PluginRecord, PluginSettings
from deepstruct.plugin.registry import COLLECTED

STYLES = {"ok": "green", "failed": "red", "disabled": "dim", "conflict": "yellow"}


@click.command(short_help="List plugins and what is wrong with them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--check", metavar="NAME", help="Load one plugin, call its hooks, and show its whole error.")
def plugins(as_json: bool, check: str | None) -> None:
    """List the plugins that are installed, with their state.

    DEEPSTRUCT_PLUGINS selects them (none, or a,b, or -c to leave one out);
    DEEPSTRUCT_STRICT_PLUGINS=1 makes a broken one an error. This command works without either.
    """
    host = inspected_host()
    if check is not None:
        _check(host, check, as_json)
    elif as_json:
        click.echo(json.dumps([record.to_dict() for record in host.records()], indent=2))
    else:
        _table(host.records())


def inspected_host() -> Host:
    """A host of its own with every hook called: it says nothing on stderr, since its records say it all.

    Strictness is left out, because it would hide all plugins behind the first broken one.
    """
    settings = PluginSettings.from_environment()
    host = Host(settings=PluginSettings(settings.only, settings.without), stream=io.StringIO())
    host.registry().collect_all()
    return host


def _table(records: list[PluginRecord]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("plugin", "from", "state", "ms", "hooks"):
        table.add_column(title, justify="right" if title == "ms" else "left", overflow="fold")
    for record in records:
        hooks = ", ".join(hook.removeprefix("deepstruct_") for hook in record.hooks)
        style = STYLES[record.state]
        table.add_row(record.name, record.provider, f"[{style}]{record.state}[/]", f"{record.seconds * 1e3:.0f}", hooks)
    console = Console()
    console.print(table)
    for record in records:
        if record.error:
            console.print(f"{record.name}: {record.error}", markup=False, highlight=False, soft_wrap=True)
        for warning in record.warnings:
            console.print(f"{record.name}: {warning}", markup=False, highlight=False, soft_wrap=True)


def _check(host: Host, name: str, as_json: bool) -> None:
    record = host.record(name)
    counts = {kind: sum(offer.plugin == record.name for offer in host.registry().offers(kind)) for kind in COLLECTED}
    if as_json:
        counted = {kind: count for kind, count in counts.items() if count}
        click.echo(json.dumps({**record.to_dict(), "contributes": counted}, indent=2))
    else:
        click.echo(f"{record.name} ({record.provider}): {record.state}")
        click.echo(f"  loaded from  {record.target or 'unknown'}, in {record.seconds * 1e3:.0f} ms")
        click.echo(f"  hooks        {', '.join(record.hooks) or 'none'}")
        for kind, count in counts.items():
            if count:
                click.echo(f"  {kind:<12} {count}")
        for problem in [*record.failed_hooks.values()] or [record.error]:
            if problem:
                click.echo(f"  problem      {problem}")
        for warning in record.warnings:
            click.echo(f"  warning      {warning}")
        if record.details:
            click.echo()
            click.echo(record.details.rstrip())
    if record.state in ("failed", "conflict"):
        sys.exit(1)
