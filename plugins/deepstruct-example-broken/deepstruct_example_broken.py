"""Broken on purpose: it needs a package that does not exist, as after a careless upgrade."""

from deepstruct_example_missing_dependency import something

__all__ = ["something"]
