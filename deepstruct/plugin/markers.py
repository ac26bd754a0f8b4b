"""The markers of the plugin interface; apart from everything else, so that any module may import them."""

from __future__ import annotations

import pluggy

PROJECT = "deepstruct"
ENTRY_POINT_GROUP = "deepstruct.plugins"

API_VERSION = 1
"""Number of the plugin interface; a plugin may state the one it is written for as `deepstruct_api`."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
