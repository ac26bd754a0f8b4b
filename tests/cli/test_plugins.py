"""`deepstruct plugins`, `deepstruct doctor`, and commands of plugins."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from deepstruct.checkpoints.readers import deepstruct_checkpoint_readers
from deepstruct.plugin import Host, use_host


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with two broken plugins, one that works, and one that tries to take over."""
    plugins = {
        "broken": "raise SystemExit('broken on purpose')",
        "raising": """
            from deepstruct import hookimpl

            @hookimpl
            def deepstruct_commands(cli):
                raise RuntimeError("no commands today")
            """,
        "hello": """
            import click
            from deepstruct import hookimpl

            @hookimpl
            def deepstruct_commands(cli):
                @cli.command()
                @click.option("--name", default="world")
                def hello(name):
                    "Greet."
                    click.echo(f"hello {name}")
            """,
        "greedy": """
            import click
            from deepstruct import hookimpl

            @hookimpl
            def deepstruct_commands(cli):
                cli.commands.pop("analyze", None)
                @cli.command()
                def plugins():
                    click.echo("taken over")
            """,
    }
    directory = tmp_path / "site"
    for name, source in plugins.items():
        info = directory / f"deepstruct_{name}-2.0.dist-info"
        info.mkdir(parents=True)
        (directory / f"ds_{name}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: deepstruct-{name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[deepstruct.plugins]\n{name} = ds_{name}\n")
    return directory


def test_the_list_works_when_plugins_are_broken(spawn, site) -> None:
    result = spawn("plugins", path=(site,))
    assert result.code == 0
    assert result.err == ""
    assert "SystemExit: broken on purpose" in result.out
    assert "deepstruct-hello 2.0" in result.out
    assert "structure.rules" in result.out


def test_json(spawn, site) -> None:
    result = spawn("plugins", "--json", path=(site,), env={"DEEPSTRUCT_STRICT_PLUGINS": "1"})
    assert result.code == 0
    records = {record["name"]: record for record in json.loads(result.out)}
    assert records["broken"]["state"] == "failed"
    assert records["hello"]["hooks"] == ["deepstruct_commands"]
    assert records["structure.rules"]["builtin"] is True


def test_check_shows_the_whole_error(spawn, site) -> None:
    result = spawn("plugins", "--check", "broken", path=(site,))
    assert result.code == 1
    assert "Traceback" in result.out
    assert "ds_broken.py" in result.out
    assert spawn("plugins", "--check", "hello", path=(site,)).code == 0


def test_check_of_an_unknown_name(spawn, site) -> None:
    result = spawn("plugins", "--check", "helo", path=(site,))
    assert result.code == 2
    assert "no plugin is called 'helo'" in result.err
    assert "Traceback" not in result.err


def test_check_in_json_counts_what_is_contributed(run) -> None:
    result = run("plugins", "--check", "checkpoints.readers", "--json")
    assert result.code == 0
    assert json.loads(result.out)["contributes"] == {"readers": len(deepstruct_checkpoint_readers())}


def test_hook_commands(spawn, site) -> None:
    result = spawn("hello", "--name", "graph", path=(site,))
    assert (result.code, result.out) == (0, "hello graph\n")
    lines = result.err.splitlines()
    assert len(lines) == 3, result.err
    assert "plugin broken (deepstruct-broken 2.0)" in lines[0]
    assert "the command 'plugins' is taken" in lines[1]
    assert "no commands today" in lines[2]


def test_help_lists_commands_of_plugins_beside_ours(spawn, site) -> None:
    result = spawn("--help", path=(site,))
    assert result.code == 0
    for name in ("analyze", "demo", "doctor", "plugins", "hello"):
        assert f"\n  {name} " in result.out


def test_our_commands_load_no_plugin_to_be_found(spawn, site) -> None:
    assert spawn("--version", path=(site,)).err == ""


def test_switched_off_plugins_bring_no_command(spawn, site) -> None:
    result = spawn("hello", path=(site,), env={"DEEPSTRUCT_PLUGINS": "none"})
    assert result.code == 2
    assert "No such command" in result.err


def test_strict_plugins_stop_the_command_line(spawn, site) -> None:
    result = spawn("hello", path=(site,), env={"DEEPSTRUCT_STRICT_PLUGINS": "1"})
    assert result.code == 2
    assert "plugin broken (deepstruct-broken 2.0) failed" in result.err
    assert "Traceback" not in result.err


def test_doctor(run) -> None:
    result = run("doctor")
    assert result.code == 0, result.out
    packages = ("python", "torch", "igraph", "networkx", "scipy")
    for word in (*packages, "threads", "cpu", "graph ext", "masked ext", "plugins"):
        assert word in result.out
    assert result.out.rstrip().endswith("no problems found")


def test_doctor_finds_broken_plugins(spawn, site) -> None:
    result = spawn("doctor", path=(site,))
    assert result.code == 1
    assert "problem: plugin broken (deepstruct-broken 2.0): SystemExit: broken on purpose" in result.out


def test_an_unknown_command(run) -> None:
    with use_host(Host(entry_points=False)):
        result = run("analyse")
    assert result.code == 2
    assert "No such command" in result.err


def test_documents_by_renderers(run, model_file, tmp_path) -> None:
    from deepstruct import hookimpl

    class Names:
        name, suffixes = "names", (".names",)

        def render(self, report):
            return ",".join(row.name for row in report.rows)

    class Plugin:
        @hookimpl
        def deepstruct_renderers(self):
            return [Names()]

    arguments = ("analyze", f"{model_file}:build", "--orders", "zeroth", "--metrics", "nodes,edges", "--quiet")
    files = {name: tmp_path / name for name in ("a.names", "b.json", "c.odd")}
    with use_host(Host([("names", Plugin())], entry_points=False)):
        result = run(
            *arguments, "--render", files["a.names"], "--render", files["b.json"], "--render", f"text={files['c.odd']}"
        )
        assert result.code == 0, result.err
        assert run(*arguments, "--render", f"pdf={tmp_path / 'x'}").code == 2
    assert files["a.names"].read_text() == "nodes,edges"
    assert json.loads(files["b.json"].read_text())
    assert "nodes" in files["c.odd"].read_text()
