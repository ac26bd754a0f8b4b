"""Plugins: the hooks, the host that loads plugins in isolation, and the records it keeps of them."""

from __future__ import annotations

from deepstruct.plugin.conflicts import Offer, Prefer, resolve
from deepstruct.plugin.context import HookContext
from deepstruct.plugin.current import get_host, use_host
from deepstruct.plugin.host import Host
from deepstruct.plugin.markers import API_VERSION, ENTRY_POINT_GROUP, hookimpl, hookspec
from deepstruct.plugin.records import PluginRecord
from deepstruct.plugin.registry import Registry
from deepstruct.plugin.settings import PluginSettings

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "HookContext",
    "Host",
    "Offer",
    "PluginRecord",
    "PluginSettings",
    "Prefer",
    "Registry",
    "get_host",
    "hookimpl",
    "hookspec",
    "resolve",
    "use_host",
]
