"""What every collecting hook is told about its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepstruct.plugin.markers import API_VERSION


@dataclass(frozen=True)
class HookContext:
    """Handed to every hook as `ctx`.

    `api` is the number of the plugin interface, `version` that of deepstruct; `settings` is free for
    what a caller wants plugins to know. Later versions add fields and take none away within one `api`.
    """

    version: str
    api: int = API_VERSION
    settings: Mapping[str, Any] = field(default_factory=dict)
