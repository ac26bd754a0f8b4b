"""An analyzer for deepstruct on NetworKit; `deepstruct_networkit.plugin` has the hooks."""

from __future__ import annotations
