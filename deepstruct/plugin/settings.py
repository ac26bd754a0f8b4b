"""The environment variables that switch plugins on and off."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

SELECT = "DEEPSTRUCT_PLUGINS"
STRICT = "DEEPSTRUCT_STRICT_PLUGINS"


def normalise(name: str) -> str:
    """The normal form of a distribution or plugin name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


@dataclass(frozen=True)
class PluginSettings:
    """Which plugins may load, and whether a broken one is an error.

    `only` is None for all, else the names that may load (an empty set for none); `without` are names
    that may not. A name is that of the plugin (its entry point) or of its distribution.
    """

    only: frozenset[str] | None = None
    without: frozenset[str] = frozenset()
    strict: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> PluginSettings:
        """Read `DEEPSTRUCT_PLUGINS` ("none", "a,b" or "-c") and `DEEPSTRUCT_STRICT_PLUGINS` ("1")."""
        environ = os.environ if environ is None else environ
        strict = environ.get(STRICT, "").strip().lower() not in ("", "0", "false", "no", "off")
        names = [part.strip() for part in environ.get(SELECT, "").split(",") if part.strip()]
        without = frozenset(normalise(name[1:]) for name in names if name.startswith("-"))
        wanted = [normalise(name) for name in names if not name.startswith("-")]
        if wanted in (["none"], ["off"]):
            return cls(frozenset(), without, strict)
        wanted = [name for name in wanted if name != "all"]
        return cls(frozenset(wanted) if wanted else None, without, strict)

    def allows(self, name: str, distribution: str) -> bool:
        """Whether the plugin `name` of `distribution` may load."""
        names = {normalise(name), normalise(distribution)} - {""}
        if names & self.without:
            return False
        return self.only is None or bool(names & self.only)

    def unmatched(self, known: set[str]) -> list[str]:
        """Names asked for that no installed plugin or distribution has."""
        return sorted((self.only or frozenset()) - {normalise(name) for name in known})
