"""Choosing between offers for the same thing: preference, then priority, then a clear refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deepstruct.errors import PluginError
from deepstruct.plugin.settings import normalise

T = TypeVar("T")

BUILTIN_PRIORITY = -100
"""What is built in yields to any plugin that does not ask for less."""

Prefer = str | Sequence[str] | Mapping[str, str]
"""One distribution, several in order, or one for each key."""


@dataclass(frozen=True)
class Offer(Generic[T]):
    """A value that a plugin contributes, with what decides between it and another one."""

    value: T
    plugin: str
    distribution: str
    version: str
    builtin: bool = False

    @property
    def priority(self) -> int:
        """The value's own `priority`, 0 without one; built-ins are lower by 100."""
        own = getattr(self.value, "priority", 0)
        own = own if isinstance(own, int) else 0
        return own + BUILTIN_PRIORITY if self.builtin and own > BUILTIN_PRIORITY else own

    @property
    def provider(self) -> str:
        """Distribution and version: "deepstruct-acme 1.2"."""
        return f"{self.distribution or self.plugin} {self.version}".strip()


def resolve(
    candidates: Iterable[Offer[T]], key: str, prefer: Prefer | None = None, *, ranked: bool = True
) -> Offer[T]:
    """The offer that serves `key`.

    What `prefer` names wins whatever its priority; otherwise the highest priority. With `ranked=False` the
    values' own priorities mean something else, and only what is built in yields. Raises PluginError
    when two offers are equal, naming both distributions and the `prefer=` that decides, and when there
    is none.
    """
    offers = list(candidates)
    if not offers:
        raise PluginError(f"no plugin offers {key}")
    for name in _wanted(prefer, key):
        chosen = [o for o in offers if name in (normalise(o.distribution), normalise(o.plugin))]
        if chosen:
            offers = chosen
            break
    ranks = [offer.priority if ranked else BUILTIN_PRIORITY * offer.builtin for offer in offers]
    best = max(ranks)
    top = [offer for offer, rank in zip(offers, ranks, strict=True) if rank == best]
    if len(top) > 1:
        raise PluginError(_conflict(top, key, best))
    return top[0]


def _wanted(prefer: Prefer | None, key: str) -> list[str]:
    if prefer is None:
        return []
    if isinstance(prefer, str):
        return [normalise(prefer)]
    if isinstance(prefer, Mapping):
        return [normalise(prefer[key])] if key in prefer else []
    return [normalise(name) for name in prefer]


def _conflict(offers: Sequence[Offer[Any]], key: str, priority: int) -> str:
    providers = sorted({offer.provider for offer in offers})
    if len(providers) == 1:
        return f"{key} is offered {len(offers)} times at priority {priority} by {providers[0]}"
    first = min(offers, key=lambda offer: offer.distribution or offer.plugin)
    return (
        f"{key} is offered at the same priority ({priority}) by {' and '.join(providers)}: "
        f"say which one with prefer={(first.distribution or first.plugin)!r} (or prefer={{key: distribution}}), "
        f"or switch one off with DEEPSTRUCT_PLUGINS=-{first.plugin}"
    )
