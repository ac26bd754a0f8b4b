"""What is known about each plugin: where it comes from, whether it works, and why not."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "failed", "disabled", "conflict"]


@dataclass
class PluginRecord:
    """One plugin, loaded or not.

    `state` is "ok"; "failed" when something of it does not work (`hooks` says what still does);
    "disabled" when `DEEPSTRUCT_PLUGINS` leaves it out; "conflict" when another plugin holds its name.
    `seconds` is the time spent importing it and calling its hooks; `warnings` are things that work but
    should not be (slow to load, printing to standard output).
    """

    name: str
    distribution: str = ""
    version: str = ""
    target: str = ""
    state: State = "ok"
    error: str = ""
    seconds: float = 0.0
    hooks: list[str] = field(default_factory=list)
    failed_hooks: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    builtin: bool = False
    details: str = field(default="", repr=False)

    @property
    def provider(self) -> str:
        """Distribution and version, as stated in results: "deepstruct-acme 1.2"."""
        return f"{self.distribution or self.name} {self.version}".strip()

    @property
    def loaded(self) -> bool:
        """Whether at least one of its hooks can be called."""
        return bool(self.hooks)

    def fail(self, error: BaseException | str, *, hook: str = "", keep: bool = False) -> str:
        """Note a failure, of one hook or of the whole plugin, and return it as one line.

        A hook that failed is not called again, unless `keep`.
        """
        line = one_line(error)
        self.state = "failed"
        if hook:
            line = f"{hook}: {line}"
            self.failed_hooks.setdefault(hook, line)
            if hook in self.hooks and not keep:
                self.hooks.remove(hook)
        else:
            self.hooks.clear()
        self.error = self.error or line
        if isinstance(error, BaseException):
            self.details += "".join(traceback.format_exception(error))
        return line

    def to_dict(self) -> dict[str, Any]:
        """Everything that `deepstruct plugins --json` prints."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "target": self.target,
            "state": self.state,
            "error": self.error,
            "seconds": round(self.seconds, 6),
            "hooks": list(self.hooks),
            "failed_hooks": dict(self.failed_hooks),
            "warnings": list(self.warnings),
            "builtin": self.builtin,
        }


def one_line(error: BaseException | str, limit: int = 240) -> str:
    """An error as a single line of bounded length, with its type."""
    if isinstance(error, BaseException):
        try:
            text = str(error)
        except Exception:  # a broken __str__ is the plugin's fault, and no reason to lose the record
            text = "(its message cannot be shown)"
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    else:
        text = error
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
