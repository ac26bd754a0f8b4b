"""Every Python example of the README and the docs runs; every link inside them leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepstruct.plugin import inspection

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=name)
def test_examples_run(page, monkeypatch, tmp_path) -> None:
    """One namespace for each page; a failing line is reported by its number in the page."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "example"}
    for match in BLOCK.finditer(text):
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_inside_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_hook_has_a_section() -> None:
    sections = re.findall(r"^### (deepstruct_\w+)$", (ROOT / "docs" / "plugins.md").read_text(), re.MULTILINE)
    assert sorted(sections) == inspection.hook_names()


def test_every_hook_has_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [
        hook
        for hook in inspection.hook_names()
        if f"def test_hook_{hook.removeprefix('deepstruct_')}(" not in tests
    ]
    assert missing == []


def test_every_command_and_option_is_in_the_docs() -> None:
    from deepstruct.cli.main import cli

    text = (ROOT / "docs" / "cli.md").read_text()
    for command in cli.commands.values():
        assert f"## {command.name}\n" in text, command.name
        for parameter in command.params:
            for option in (o for o in parameter.opts if o.startswith("--")):
                assert option in text, f"{command.name} {option}"
