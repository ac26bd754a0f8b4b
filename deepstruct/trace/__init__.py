"""Recording what a model does on an example input: which ops ran, on which module, with which shapes."""

from __future__ import annotations

from .alias import alias_read, alias_write
from .graph import OpGraph
from .inputs import find_example_input
from .interpret import execute, refs_of, substitute
from .opgraph import Call, Op, Ref, Value
from .tracer import trace
from .tree import Opaque

__all__ = [
    "Call",
    "Op",
    "OpGraph",
    "Opaque",
    "Ref",
    "Value",
    "alias_read",
    "alias_write",
    "execute",
    "find_example_input",
    "refs_of",
    "substitute",
    "trace",
]
