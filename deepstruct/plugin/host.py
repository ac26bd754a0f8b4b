"""The plugin host: loads plugins one at a time, keeps a record of each, and calls their hooks.

Nothing that a plugin does while it is imported, registered or asked for its contributions reaches the
caller: it is recorded, and costs one line on stderr. Only KeyboardInterrupt passes.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pluggy

from deepstruct.errors import PluginError
from deepstruct.plugin import hookspecs
from deepstruct.plugin.context import HookContext
from deepstruct.plugin.discovery import Candidate, installed
from deepstruct.plugin.inspection import check_api, implemented_hooks, unknown_hook
from deepstruct.plugin.markers import PROJECT
from deepstruct.plugin.records import PluginRecord
from deepstruct.plugin.registry import Registry
from deepstruct.plugin.settings import SELECT, STRICT, PluginSettings

BUILTINS = (
    "deepstruct.structure.rules",
    "deepstruct.structure.orders",
    "deepstruct.analyzers.operator",
    "deepstruct.analyzers.igraph",
    "deepstruct.analyzers.networkx",
    "deepstruct.metrics",
    "deepstruct.checkpoints.readers",
)
"""Modules that contribute what is built in, through the hooks that any plugin uses."""

PluginLike = Any | tuple[str, Any]


class Host:
    """Loads plugins lazily, at the first call of `registry`, `records` or `call`.

    `plugins` are modules, objects, or (name, object) pairs that are registered beside what is
    installed. `Host(plugins=[...], entry_points=False)` is a host of its own, for tests; with
    `builtins=False` it does not even have ours.
    """

    def __init__(
        self,
        plugins: Iterable[PluginLike] = (),
        *,
        entry_points: bool = True,
        builtins: bool = True,
        settings: PluginSettings | None = None,
        stream: Any = None,
    ) -> None:
        from deepstruct import __version__

        self.context = HookContext(version=__version__)
        self._given = list(plugins)
        self._entry_points = entry_points
        self._builtins = builtins
        self._settings = PluginSettings.from_environment() if settings is None else settings
        self._stream = stream
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._records: list[PluginRecord] = []
        self._objects: list[tuple[PluginRecord, Any]] = []
        self._callers: dict[tuple[str, int], Callable[..., Any]] = {}
        self._lock = threading.RLock()
        self._state = "new"
        self._registry = Registry(self)

    @property
    def lock(self) -> threading.RLock:
        """Held while plugins load and while contributions are collected."""
        return self._lock

    def registry(self) -> Registry:
        """What all plugins contribute; each kind is collected when it is first asked for."""
        self.load()
        return self._registry

    def records(self) -> list[PluginRecord]:
        """A record for every plugin, built-in ones first, then sorted by distribution and name."""
        self.load()
        return list(self._records)

    def record(self, name: str) -> PluginRecord:
        """The record of one plugin by its name or its distribution's; PluginError when there is none."""
        records = self.records()
        for record in records:
            if name in (record.name, record.distribution) and not (record.builtin and name == PROJECT):
                return record
        known = ", ".join(record.name for record in records) or "none"
        raise PluginError(f"no plugin is called {name!r}; installed plugins: {known}")

    def load(self) -> None:
        """Import and register every plugin, once. With strict settings, a broken one raises PluginError."""
        if self._state == "ready":
            return
        with self._lock:
            if self._state == "ready":
                return
            if self._state == "loading":  # only the thread that holds the lock gets here
                raise PluginError(
                    "deepstruct was used while its plugins load: "
                    "a plugin may not analyse anything when it is imported"
                )
            self._state = "loading"
            try:
                self._load_all()
            except BaseException:
                self._reset()
                raise
            self._state = "ready"

    def plugins(self) -> Iterator[tuple[PluginRecord, Any]]:
        """Every plugin that is registered, with its record, in order of loading."""
        self.load()
        yield from self._objects

    def implementers(self, hook: str) -> list[tuple[PluginRecord, Any]]:
        """The plugins that implement `hook`, in the order in which they are asked.

        Those of others come before ours; among them `tryfirst` and `trylast` count, then the order of
        loading.
        """
        self.load()
        found = [
            (record.builtin, _rank(implementation), index, record, plugin)
            for index, (record, plugin) in enumerate(self._objects)
            for implementation in getattr(self._manager.hook, hook).get_hookimpls()
            if implementation.plugin is plugin and hook in record.hooks
        ]
        return [(record, plugin) for _, _, _, record, plugin in sorted(found, key=lambda f: f[:3])]

    def call(self, hook: str, record: PluginRecord, plugin: Any, **arguments: Any) -> list[Any]:
        """Call one hook of one plugin; its results, or an empty list when it raised (which is recorded)."""
        try:
            caller = self._callers.get((hook, id(plugin)))
            if caller is None:
                others = [other for _, other in self._objects if other is not plugin]
                caller = self._manager.subset_hook_caller(hook, others)
                self._callers[hook, id(plugin)] = caller
            started = time.perf_counter()
            try:
                return list(caller(**arguments))
            finally:
                record.seconds += time.perf_counter() - started
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failed(record, error, hook=hook)
            return []

    def failed(self, record: PluginRecord, error: BaseException | str, *, hook: str = "") -> None:
        """Record a failure and say it in one line on stderr; in strict mode raise PluginError."""
        line = record.fail(error, hook=hook)
        name, version = record.name, record.provider
        if self._settings.strict:
            cause = error if isinstance(error, BaseException) else None
            raise PluginError(f"plugin {name} ({version}) failed: {line} [{STRICT} is set]") from cause
        off = "" if record.builtin else f"; to switch it off: {SELECT}=-{name}"
        self.say(f"plugin {name} ({version}) failed: {line} [more: deepstruct plugins --check {name}{off}]")

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(f"deepstruct: {text}", file=self._stream or sys.stderr)

    def _reset(self) -> None:
        for _, plugin in self._objects:
            self._manager.unregister(plugin)
        self._records, self._objects, self._callers, self._state = [], [], {}, "new"

    def _load_all(self) -> None:
        if self._builtins:
            for path in BUILTINS:
                name = path.removeprefix("deepstruct.")
                candidate = Candidate(name, PROJECT, self.context.version, path, _importer(path))
                self._load_one(candidate, builtin=True)
        for given in self._given:
            self._load_one(_given_candidate(given))
        if not self._entry_points:
            return
        try:
            candidates = installed()
        except Exception as error:
            record = PluginRecord("(entry points)")
            self._records.append(record)
            self.failed(record, error)
            return
        for candidate in candidates:
            self._load_one(candidate)
        known = {name for c in candidates for name in (c.name, c.distribution)}
        for name in self._settings.unmatched(known):
            self.say(f"{SELECT} names {name!r}, but no such plugin is installed")

    def _load_one(self, candidate: Candidate, builtin: bool = False) -> None:
        name, distribution = candidate.name, candidate.distribution
        record = PluginRecord(name, distribution, candidate.version, candidate.target, builtin=builtin)
        self._records.append(record)
        if not builtin and not self._settings.allows(name, distribution):
            record.state, record.error = "disabled", f"left out by {SELECT}"
            return
        conflict, unknown = "", list[str]()
        started = time.perf_counter()
        try:
            conflict = self._taken(record)
            if not conflict:
                plugin = _loaded(candidate)
                conflict = self._same(plugin)
            if not conflict:
                unknown = self._register(record, plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failed(record, error)
        finally:
            record.seconds += time.perf_counter() - started
        if conflict:
            try:
                self.failed(record, conflict)
            finally:
                record.state = "conflict"
        for hook in unknown:
            self.failed(record, unknown_hook(hook), hook=hook)

    def _taken(self, record: PluginRecord) -> str:
        holders = [r for r, _ in self._objects if r.name == record.name and not r.builtin]
        return f"the name {record.name!r} is taken by {holders[0].provider}" if holders else ""

    def _same(self, plugin: Any) -> str:
        holders = [r for r, other in self._objects if other is plugin]
        return (
            f"it is the same object as plugin {holders[0].name!r} of {holders[0].provider}" if holders else ""
        )

    def _register(self, record: PluginRecord, plugin: Any) -> list[str]:
        """Register a plugin whole or not at all; the hook names it uses that do not exist."""
        check_api(plugin)
        hooks, unknown = implemented_hooks(self._manager, plugin)
        try:
            self._manager.register(plugin, name=f"{record.distribution}:{record.name}")
        except BaseException:
            # pluggy validates hook by hook: those before the bad one are already in place.
            self._manager.unregister(plugin)
            raise
        self._objects.append((record, plugin))
        self._callers.clear()
        record.hooks = hooks
        return unknown


def _loaded(candidate: Candidate) -> Any:
    if candidate.problem is not None:
        raise candidate.problem
    plugin = candidate.load()
    return plugin() if isinstance(plugin, type) else plugin


def _rank(implementation: pluggy.HookImpl) -> int:
    return int(implementation.trylast) - int(implementation.tryfirst)


def _importer(path: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(path)


def _given_candidate(given: PluginLike) -> Candidate:
    name, plugin = given if isinstance(given, tuple) else ("", given)
    name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
    version = str(getattr(plugin, "__version__", ""))
    return Candidate(name, name, version, "(given)", lambda: plugin)
