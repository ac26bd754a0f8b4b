"""The `deepstruct` command: its group, its errors, and the commands of plugins."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import click

from deepstruct import __version__
from deepstruct.cli.analyze import analyze
from deepstruct.cli.batch import batch
from deepstruct.cli.build_ext import build_ext
from deepstruct.cli.demo import demo
from deepstruct.cli.doctor import doctor
from deepstruct.cli.draw import draw
from deepstruct.cli.drift import drift
from deepstruct.cli.plugin_new import plugin
from deepstruct.cli.plugins import plugins
from deepstruct.cli.results import results
from deepstruct.errors import DeepstructError
from deepstruct.plugin import Host, get_host
from deepstruct.plugin.host import COMMANDS_HOOK


class PluginGroup(click.Group):
    """A group that asks plugins for commands when a name is none of ours, or when all are listed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._asked: Host | None = None
        self._theirs: dict[str, click.Command] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._from_plugins()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        ours = super().get_command(ctx, cmd_name)
        return ours if ours is not None else self._from_plugins().get(cmd_name)

    def _from_plugins(self) -> dict[str, click.Command]:
        host = get_host()
        if self._asked is not host:
            self._asked, self._theirs = host, {}
            for plugin in host.implementers(COMMANDS_HOOK):
                # Each plugin fills a group of its own, so that it can neither replace nor remove a command.
                group = click.Group(plugin.record.name)
                host.call(COMMANDS_HOOK, plugin, cli=group)
                for name, command in sorted(group.commands.items()):
                    if name in self.commands or name in self._theirs:
                        host.failed(plugin.record, f"the command {name!r} is taken", hook=COMMANDS_HOOK)
                    else:
                        self._theirs[name] = command
        return self._theirs


@click.group(
    cls=PluginGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="deepstruct")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error (or DEEPSTRUCT_DEBUG=1).")
def cli(debug: bool) -> None:
    """Turn PyTorch models into graphs and measure them."""
    if debug:
        os.environ["DEEPSTRUCT_DEBUG"] = "1"


cli.add_command(analyze)
cli.add_command(batch)
cli.add_command(results)
cli.add_command(plugins)
cli.add_command(plugin)
cli.add_command(doctor)
cli.add_command(drift)
cli.add_command(draw)
cli.add_command(demo)
cli.add_command(build_ext)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 2 for an error of the user's, 130 when interrupted."""
    try:
        # Without click's standalone mode, errors and interrupts are ours to report.
        code = cli.main(args=arguments, prog_name="deepstruct", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("deepstruct: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DeepstructError as error:
        if os.environ.get("DEEPSTRUCT_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        click.echo(f"deepstruct: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe (head, less) closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
