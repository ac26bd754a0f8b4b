"""Looking at a plugin before its hooks are called: the API it is written for and the hooks it has."""

from __future__ import annotations

import difflib
from typing import Any

import pluggy

from deepstruct.errors import PluginError
from deepstruct.plugin import hookspecs
from deepstruct.plugin.markers import API_VERSION, PROJECT


def hook_names() -> list[str]:
    """Names of all hooks."""
    return sorted(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_"))


def check_api(plugin: Any) -> None:
    """PluginError when the plugin states a number of the plugin interface that is not ours."""
    api = getattr(plugin, "deepstruct_api", API_VERSION)
    if isinstance(api, bool) or not isinstance(api, int):
        raise PluginError(f"deepstruct_api is {api!r}, where a whole number is expected")
    if api != API_VERSION:
        raise PluginError(f"it is written for plugin API {api}; this deepstruct has API {API_VERSION}")


def implemented_hooks(manager: pluggy.PluginManager, plugin: Any) -> tuple[list[str], list[str]]:
    """The hooks that a plugin implements: those that exist, and names that no hook has.

    Raises PluginError when there is none at all, and for hook wrappers: hooks are called for one plugin
    at a time, so that there is nothing for them to wrap.
    """
    known: list[str] = []
    unknown: list[str] = []
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            continue
        hook = options.get("specname") or name
        if options["wrapper"] or options["hookwrapper"]:
            raise PluginError(f"{name} is a hook wrapper, but hooks are called plugin by plugin")
        if hasattr(hookspecs, hook):
            known.append(hook)
        elif not options["optionalhook"]:
            unknown.append(hook)
    if not known and not unknown:
        raise PluginError(_no_hooks(plugin))
    return sorted(known), sorted(unknown)


def unknown_hook(hook: str) -> PluginError:
    """The error for a hook that does not exist, with the name that was probably meant."""
    names = hook_names()
    close = difflib.get_close_matches(hook, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; hooks: {', '.join(names)}"
    return PluginError(f"there is no hook of this name{hint}")


def _no_hooks(plugin: Any) -> str:
    unmarked = [name for name in dir(plugin) if name.startswith(f"{PROJECT}_") and callable(getattr(plugin, name))]
    if unmarked:
        return f"{unmarked[0]} is not marked with @deepstruct.hookimpl, and no other hook is implemented"
    return "it implements no hook (a function marked with @deepstruct.hookimpl)"
