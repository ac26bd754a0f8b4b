"""Keeping standard output clean while code of a plugin runs in this thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_active = 0


class _Divided:
    """Stands for sys.stdout: threads that run a plugin write to their own target, all others as before."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.local = threading.local()

    def write(self, text: str) -> int:
        target = getattr(self.local, "target", None)
        if target is None:
            return self.original.write(text)
        self.local.count += len(text)
        target.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self.local, "target", None) or self.original, name)


@contextmanager
def printing_to(target: Any) -> Iterator[Callable[[], int]]:
    """Sends what this thread prints to `target`; yields a function that counts the characters.

    Other threads print as before. Output of subprocesses and of C code is out of reach.
    """
    global _active
    with _lock:
        divided = sys.stdout if isinstance(sys.stdout, _Divided) else _Divided(sys.stdout)
        sys.stdout = divided
        _active += 1
    local = divided.local
    before = getattr(local, "target", None), getattr(local, "count", 0)
    local.target, local.count = target, 0
    printed = 0

    def count() -> int:
        return printed

    try:
        yield count
    finally:
        printed = local.count
        local.target, local.count = before
        with _lock:
            _active -= 1
            if _active == 0 and sys.stdout is divided:
                sys.stdout = divided.original
