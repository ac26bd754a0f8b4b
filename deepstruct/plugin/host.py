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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pluggy

from deepstruct.errors import PluginError
from deepstruct.plugin import hookspecs
from deepstruct.plugin.context import HookContext
from deepstruct.plugin.discovery import Candidate, installed
from deepstruct.plugin.inspection import check_api, implemented_hooks, unknown_hook
from deepstruct.plugin.markers import PROJECT
from deepstruct.plugin.output import printing_to
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
    "deepstruct.checkpoints.executors",
    "deepstruct.checkpoints.sinks",
    "deepstruct.report.renderers",
)
"""Modules that contribute what is built in, through the hooks that any plugin uses."""

COMMANDS_HOOK = "deepstruct_commands"
"""The one hook that no built-in module implements, so that calling it need not load them."""

SLOW = 2.0
"""Seconds that a plugin may take to import before that is said."""

PRINTS = "it prints to standard output (sent to stderr)"

PluginLike = Any | tuple[str, Any]


@dataclass(frozen=True, eq=False)
class Loaded:
    """A plugin that is registered: its record, the module or object, and its own hook caller."""

    record: PluginRecord
    plugin: Any
    manager: pluggy.PluginManager

    def rank(self, hook: str) -> int:
        """-1 for `tryfirst`, 1 for `trylast`, else 0."""
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        return min((int(i.trylast) - int(i.tryfirst) for i in implementations), default=0)


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
        self._records: list[PluginRecord] = []
        self._loaded: list[Loaded] = []
        self._lock = threading.RLock()
        self._ready: set[str] = set()
        self._loading = False
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
        return sorted(self._records, key=lambda record: not record.builtin)

    def record(self, name: str) -> PluginRecord:
        """The record of one plugin by its name or its distribution's; PluginError when there is none."""
        records = self.records()
        for record in reversed(records):  # ours give way to another one of the same name
            if name == record.name or (name == record.distribution and not record.builtin):
                return record
        known = ", ".join(record.name for record in records) or "none"
        raise PluginError(f"no plugin is called {name!r}; installed plugins: {known}")

    def load(self, *, builtins: bool = True) -> None:
        """Import and register every plugin, once. With strict settings, a broken one raises PluginError.

        With `builtins=False`, ours are left for later: importing them brings torch along.
        """
        phases = {"installed": self._load_installed, "builtin": self._load_builtin}
        for phase, load in phases.items():
            if phase in self._ready or (phase == "builtin" and not builtins):
                continue
            with self._lock:
                if phase in self._ready:
                    continue
                if self._loading:  # only the thread that holds the lock gets here
                    raise PluginError(
                        "deepstruct was used while its plugins load: "
                        "a plugin may not analyse anything when it is imported"
                    )
                before = len(self._records), len(self._loaded)
                self._loading = True
                try:
                    load()
                except BaseException:
                    del self._records[before[0] :], self._loaded[before[1] :]
                    raise
                finally:
                    self._loading = False
                self._ready.add(phase)

    def plugins(self) -> list[Loaded]:
        """Every plugin that is registered, in order of loading."""
        self.load()
        return list(self._loaded)

    def implementers(self, hook: str) -> list[Loaded]:
        """The plugins that implement `hook`, in the order in which they are asked.

        Those of others come before ours; among them `tryfirst` and `trylast` count, then the order of
        loading.
        """
        self.load(builtins=hook != COMMANDS_HOOK)
        found = [plugin for plugin in self._loaded if hook in plugin.record.hooks]
        return sorted(found, key=lambda plugin: (plugin.record.builtin, plugin.rank(hook)))

    def call(
        self,
        hook: str,
        plugin: Loaded,
        *,
        guard: Callable[[], AbstractContextManager[Any]] = nullcontext,
        **arguments: Any,
    ) -> list[Any]:
        """Call one hook of one plugin; its results, or an empty list when it raised (which is recorded).

        `guard` makes a context for the call. What the plugin prints to standard output goes to stderr.
        """
        started = time.perf_counter()
        try:
            with self.quiet(plugin.record), guard():
                return list(getattr(plugin.manager.hook, hook)(**arguments))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failed(plugin.record, error, hook=hook)
            return []
        finally:
            plugin.record.seconds += time.perf_counter() - started

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin that implements `hook`; what one raises is recorded and never raised.

        Said once for each plugin and hook, also in strict mode: a notification costs no batch. The hook is
        called again the next time, since what failed (a network, say) may work then.
        """
        for plugin in self.implementers(hook):
            record, started = plugin.record, time.perf_counter()
            try:
                with self.quiet(record):
                    getattr(plugin.manager.hook, hook)(ctx=self.context, **arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                known = hook in record.failed_hooks
                line = record.fail(error, hook=hook, keep=True)
                if not known:
                    self._tell(record, line)
            finally:
                record.seconds += time.perf_counter() - started

    @contextmanager
    def quiet(self, record: PluginRecord) -> Iterator[None]:
        """Sends to stderr what a plugin prints, and notes it once: standard output is for results."""
        with printing_to(self._stream or sys.stderr) as printed:
            yield
        if printed() and PRINTS not in record.warnings:
            record.warnings.append(PRINTS)

    def failed(self, record: PluginRecord, error: BaseException | str, *, hook: str = "") -> None:
        """Record a failure and say it in one line on stderr; in strict mode raise PluginError."""
        line = record.fail(error, hook=hook)
        name, version = record.name, record.provider
        if self._settings.strict:
            cause = error if isinstance(error, BaseException) else None
            raise PluginError(f"plugin {name} ({version}) failed: {line} [{STRICT} is set]") from cause
        self._tell(record, line)

    def _tell(self, record: PluginRecord, line: str) -> None:
        off = "" if record.builtin else f"; to switch it off: {SELECT}=-{record.name}"
        self.say(
            f"plugin {record.name} ({record.provider}) failed: {line} "
            f"[more: deepstruct plugins --check {record.name}{off}]"
        )

    def say(self, text: str) -> None:
        """One line on stderr."""
        print(f"deepstruct: {text}", file=self._stream or sys.stderr)

    def _load_builtin(self) -> None:
        for path in BUILTINS if self._builtins else ():
            name = path.removeprefix("deepstruct.")
            candidate = Candidate(name, PROJECT, self.context.version, path, _importer(path))
            self._load_one(candidate, builtin=True)

    def _load_installed(self) -> None:
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
                with self.quiet(record):
                    plugin = _imported(candidate)
                conflict = self._same(plugin)
            if not conflict:
                unknown = self._register(record, plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self.failed(record, error)
        finally:
            record.seconds += time.perf_counter() - started
        if record.seconds > SLOW and not builtin:
            self._slow(record)
        if conflict:
            try:
                self.failed(record, conflict)
            finally:
                record.state = "conflict"
        for hook in unknown:
            self.failed(record, unknown_hook(hook), hook=hook)

    def _slow(self, record: PluginRecord) -> None:
        text = f"it took {record.seconds:.1f} s to import"
        record.warnings.append(text)
        off = f"to switch it off: {SELECT}=-{record.name}"
        self.say(f"plugin {record.name} ({record.provider}) is slow: {text} [{off}]")

    def _taken(self, record: PluginRecord) -> str:
        for other in self._loaded:
            if other.record.name == record.name and not other.record.builtin:
                return f"the name {record.name!r} is taken by {other.record.provider}"
        return ""

    def _same(self, plugin: Any) -> str:
        for other in self._loaded:
            if other.plugin is plugin:
                return f"it is the same object as plugin {other.record.name!r} of {other.record.provider}"
        return ""

    def _register(self, record: PluginRecord, plugin: Any) -> list[str]:
        """Register a plugin whole or not at all; the hook names it uses that do not exist."""
        check_api(plugin)
        # A manager for each plugin: no hook call can reach another one, and what is registered half
        # goes away with its manager.
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(hookspecs)
        hooks, unknown = implemented_hooks(manager, plugin)
        manager.register(plugin, name=record.name)
        self._loaded.append(Loaded(record, plugin, manager))
        record.hooks = hooks
        return unknown


def _imported(candidate: Candidate) -> Any:
    if candidate.problem is not None:
        raise candidate.problem
    plugin = candidate.load()
    return plugin() if isinstance(plugin, type) else plugin


def _importer(path: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(path)


def _given_candidate(given: PluginLike) -> Candidate:
    name, plugin = given if isinstance(given, tuple) else ("", given)
    name = name or str(getattr(plugin, "__name__", type(plugin).__name__))
    version = str(getattr(plugin, "__version__", ""))
    return Candidate(name, name, version, "(given)", lambda: plugin)
