"""Data flows one way: what a room imports lies above it in the list of docs/design.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "deepstruct"
# each may import from those before it; metrics and analyzers are one room with two doors
ORDER = (
    ("errors", "_build", "__version__", "progress"),
    ("_native", "factory"),
    ("trace",),
    ("structure",),
    ("engine",),
    ("metrics", "analyzers"),
    ("report",),
    ("sample",),
    ("api",),
    ("graph",),
    ("sparse",),
    ("functional", "recurrent", "transform", "util"),
    ("scalable", "dataset", "models"),
    ("pruning",),
    ("checkpoints",),
    ("batches", "tracking", "trajectory"),
    ("demo",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
BESIDE = {"plugin", "testing", "__init__"}  # contracts, and the test kit for their authors
AGAINST = {
    ("structure", "report"): "graph.draw(): people look for it on the graph",
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Rooms that a module imports when it runs, be it inside a function; not those for annotations alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "deepstruct":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("deepstruct."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("deepstruct."))
        yield from imports(node)


def between() -> dict[tuple[str, str], str]:
    """(room, room that it imports) -> a file that does."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        for other in imports(ast.parse(file.read_text())):
            if other != parts[0]:
                found.setdefault((parts[0], other), "/".join(parts))
    return found


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - set(LEVEL) - BESIDE - {"__main__"} == set()


def test_no_room_imports_from_one_below() -> None:
    wrong = {
        pair: file for pair, file in between().items()
        if not BESIDE & set(pair) and LEVEL[pair[0]] <= LEVEL[pair[1]] and pair not in AGAINST
        and set(pair) != {"metrics", "analyzers"}
    }  # fmt: skip
    assert wrong == {}


def test_what_goes_against_the_direction_is_still_there() -> None:
    assert set(AGAINST) <= set(between())
