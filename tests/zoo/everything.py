"""All architectures: the small ones of every test, and the wide zoo that docs/coverage.md is measured on."""

from __future__ import annotations

from tests.zoo import architectures, awkward, awkward_layers, hugging_face, hugging_face_more, vision  # noqa: F401 - they register what they build
from tests.zoo.registry import WIDE, ZOO, Architecture


def everything() -> list[Architecture]:
    """Each name once."""
    names = [kind.name for kind in (*ZOO, *WIDE)]
    assert len(set(names)) == len(names), "two architectures have one name"
    return [*ZOO, *WIDE]
