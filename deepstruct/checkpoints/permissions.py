"""What readers may do beyond reading tensors: nothing, unless the caller says so for a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Permissions:
    """What the caller allows.

    Attributes:
        pickle: unpickle arbitrary objects, which runs what the file says.
        torchscript: load TorchScript archives for the sake of their state.
        notes: filled by readers that made use of a permission.
    """

    pickle: bool = False
    torchscript: bool = False
    notes: list[str] = field(default_factory=list)


_current: ContextVar[Permissions | None] = ContextVar("deepstruct_permissions", default=None)


def permissions() -> Permissions:
    """Those of the block that runs; none outside of any."""
    return _current.get() or Permissions()


@contextmanager
def allowing(*, pickle: bool = False, torchscript: bool = False) -> Iterator[Permissions]:
    """Let readers in this block do more; yields the permissions, whose notes tell what they did."""
    given = Permissions(pickle, torchscript)
    token = _current.set(given)
    try:
        yield given
    finally:
        _current.reset(token)
