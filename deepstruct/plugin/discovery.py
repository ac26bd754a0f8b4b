"""Finding plugins among the installed distributions, without importing any of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deepstruct.plugin.markers import ENTRY_POINT_GROUP
from deepstruct.plugin.settings import normalise


@dataclass(frozen=True)
class Candidate:
    """A plugin that is installed: `load` imports it. `problem` is set when its metadata cannot be read."""

    name: str
    distribution: str
    version: str
    target: str
    load: Callable[[], Any]
    problem: Exception | None = None


def installed() -> list[Candidate]:
    """Every entry point of the group, sorted by distribution, then by name.

    Distributions are read one by one: unreadable metadata of one of them hides no other.
    """
    found: list[Candidate] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = _text(distribution, "Name") or _stem(distribution)
        if normalise(name) in seen:  # shadowed by an earlier directory of sys.path
            continue
        seen.add(normalise(name))
        version = _text(distribution, "Version")
        try:
            found.extend(_candidates(distribution, name, version))
        except Exception as error:
            found.append(Candidate(name, name, version, "", _nothing, error))
    return sorted(found, key=lambda c: (normalise(c.distribution), c.name))


def _candidates(distribution: importlib.metadata.Distribution, name: str, version: str) -> Iterator[Candidate]:
    # Most distributions have no such group: a look at the text saves parsing all of them.
    text = distribution.read_text("entry_points.txt")
    if not text or ENTRY_POINT_GROUP not in text:
        return
    for point in distribution.entry_points:
        if point.group == ENTRY_POINT_GROUP:
            yield Candidate(point.name, name, version, point.value, point.load)


def _text(distribution: importlib.metadata.Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "")
    except Exception:  # no METADATA file, or one that cannot be decoded: the directory name serves
        return ""


def _stem(distribution: importlib.metadata.Distribution) -> str:
    path = getattr(distribution, "_path", None)
    return str(getattr(path, "name", "unknown")).split("-")[0]


def _nothing() -> None:
    return None
