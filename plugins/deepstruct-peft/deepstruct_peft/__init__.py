"""Adapter layers of the peft package for deepstruct; `deepstruct_peft.plugin` has the hooks."""

from __future__ import annotations
