"""Persistent homology of networks for deepstruct; `deepstruct_homology.plugin` has the hooks."""

from __future__ import annotations
