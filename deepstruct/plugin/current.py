"""The host that analyses use: one for the process, or another one for the length of a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deepstruct.plugin.host import Host

_lock = threading.Lock()
_process_host: Host | None = None
_stack: list[Host] = []


def get_host() -> Host:
    """The host in use. The one of the process is made at the first call and loads plugins when asked."""
    global _process_host
    if _stack:
        return _stack[-1]
    with _lock:
        if _process_host is None:
            _process_host = Host()
        return _process_host


@contextmanager
def use_host(host: Host) -> Iterator[Host]:
    """Let every analysis in the block, in all threads, use this host: for tests and embedding programs."""
    _stack.append(host)
    try:
        yield host
    finally:
        _stack.remove(host)
