"""A pytest plugin for authors of deepstruct plugins: the fixture `plugin_manager`.

pytest finds it by its entry point wherever deepstruct is installed. It imports nothing of deepstruct before
the fixture is used.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deepstruct.plugin import Host, PluginRecord, Registry


class PluginManager:
    """Plugins of one test: what is built in, and what the test registers; nothing that is installed.

    Every analysis in the test uses it. `messages` has what deepstruct says about plugins (on stderr otherwise).
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._given: list[tuple[str, Any]] = []
        self._stream = io.StringIO()
        self._stack = ExitStack()
        self._host: Host | None = None

    def register(self, plugin: Any, name: str | None = None) -> PluginRecord:
        """Add a plugin: a module, an object or a class. Returns its record (state, error, hooks).

        With `strict`, one that does not load raises PluginError.
        """
        name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        self._given.append((name, plugin() if isinstance(plugin, type) else plugin))
        self._close()
        return self.host.record(name)

    def unregister(self, name: str) -> None:
        """Take a plugin out again; KeyError when there is none of this name."""
        kept = [(other, plugin) for other, plugin in self._given if other != name]
        if len(kept) == len(self._given):
            raise KeyError(name)
        self._given = kept
        self._close()

    @property
    def host(self) -> Host:
        """The plugin host, made anew when the plugins change."""
        from deepstruct.plugin import Host, PluginSettings, use_host

        if self._host is None:
            settings = PluginSettings(strict=self.strict)
            self._host = Host(self._given, entry_points=False, settings=settings, stream=self._stream)
            self._stack.enter_context(use_host(self._host))
        return self._host

    @property
    def registry(self) -> Registry:
        """What all plugins contribute."""
        return self.host.registry()

    @property
    def messages(self) -> list[str]:
        """Lines that were said about plugins so far."""
        return self._stream.getvalue().splitlines()

    def _close(self) -> None:
        self._stack.close()
        self._host = None


@pytest.fixture
def plugin_manager() -> Iterator[PluginManager]:
    """An isolated plugin manager (see `PluginManager`), in use for the length of the test."""
    manager = PluginManager()
    assert manager.host is not None  # in use from the start, so that no installed plugin takes part
    try:
        yield manager
    finally:
        manager._close()
