"""What the plugins of one host contribute, collected per plugin and checked."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from deepstruct.errors import PluginError
from deepstruct.plugin import contracts
from deepstruct.plugin.conflicts import Offer, Prefer, resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from deepstruct.metrics.base import Analyzer, Metric
    from deepstruct.plugin.host import Host
    from deepstruct.plugin.protocols import Executor, Renderer, Sink
    from deepstruct.plugin.records import PluginRecord

COLLECTED: dict[str, tuple[str, contracts.Check]] = {
    "rules": ("deepstruct_rules", contracts.check_rule),
    "orders": ("deepstruct_orders", contracts.check_order),
    "analyzers": ("deepstruct_analyzers", contracts.check_analyzer),
    "metrics": ("deepstruct_metrics", contracts.check_metric),
    "readers": ("deepstruct_checkpoint_readers", contracts.check_reader),
    "executors": ("deepstruct_executors", contracts.check_executor),
    "renderers": ("deepstruct_renderers", contracts.check_renderer),
    "sinks": ("deepstruct_sinks", contracts.check_sink),
}
"""Kind of contribution: the hook that brings it, and the check that its values pass."""


class Registry:
    """Everything that plugins contribute. Each kind is collected once, when it is first asked for."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._offers: dict[str, list[Offer[Any]]] = {}
        self._by_id: dict[int, Offer[Any]] = {}
        self._watched: dict[int, tuple[Any, PluginRecord]] = {}
        self._said: set[str] = set()

    @property
    def rules(self) -> list[Any]:
        """Structure rules, those of other plugins before ours."""
        return self._values("rules")

    @property
    def orders(self) -> list[Any]:
        """Transformers from a traced model to its structure graph."""
        return self._values("orders")

    @property
    def analyzers(self) -> list[Analyzer]:
        """Analyzers."""
        return self._values("analyzers")

    @property
    def metrics(self) -> list[Metric]:
        """Metrics of all analyzers."""
        return self._values("metrics")

    @property
    def readers(self) -> list[Any]:
        """Readers of checkpoint files."""
        return self._values("readers")

    @property
    def executors(self) -> list[Executor]:
        """Executors of batches."""
        return self._values("executors")

    @property
    def renderers(self) -> list[Renderer]:
        """Renderers of reports."""
        return self._values("renderers")

    @property
    def sinks(self) -> list[Sink]:
        """Sinks of batches."""
        return self._values("sinks")

    def named(self, kind: str, name: str, prefer: Prefer | None = None) -> Any:
        """The contribution of a kind ("executors", "sinks", "renderers", ...) that has this name.

        Raises PluginError when none has it, or when two plugins offer it and `prefer` does not decide.
        """
        found = [value for value in self._values(kind) if value.name == name]
        what = kind.removesuffix("s")
        if not found:
            known = ", ".join(sorted({value.name for value in self._values(kind)})) or "none"
            raise PluginError(f"there is no {what} called {name!r}; known: {known}")
        return self.resolve(found, f"{what} {name}", prefer)

    def rule_for(self, module: nn.Module, path: str) -> Any | None:
        """The rule that the first plugin has for this very module, or None.

        A plugin that raises, returns what is no rule, or changes the module is recorded as failed and not
        asked again.
        """
        from deepstruct.plugin.guard import untouched

        hook = "deepstruct_rule_for"
        arguments = {"module": module, "path": path}
        return self._first(hook, contracts.check_rule, arguments, lambda: untouched(module))

    def checkpoint_model(self, tensors: Mapping[str, Tensor], path: str) -> nn.Module | None:
        """The module that the first plugin has for the state of a checkpoint, or None.

        `provider_of` says which plugin it was. A plugin that raises, or returns what is no module, is
        recorded as failed and not asked again.
        """
        arguments = {"tensors": tensors, "path": path}
        return self._first("deepstruct_checkpoint_model", contracts.check_module, arguments)

    def _first(
        self,
        hook: str,
        check: contracts.Check,
        arguments: dict[str, Any],
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Any | None:
        host = self._host
        for plugin in host.implementers(hook):
            for value in host.call(hook, plugin, guard=guard, ctx=host.context, **arguments):
                problem = check(value)
                if not problem:
                    self._watch(value, plugin.record)
                    return value
                host.failed(plugin.record, TypeError(f"returned a value {problem}"), hook=hook)
        return None

    def offers(self, kind: str) -> list[Offer[Any]]:
        """The contributions of one kind ("rules", "metrics", ...) with where each comes from."""
        with self._host.lock:
            if kind not in self._offers:
                self._offers[kind] = self._collect(*COLLECTED[kind])
            return list(self._offers[kind])

    def offer_of(self, value: Any) -> Offer[Any] | None:
        """The offer that brought this very object, or None when no plugin did."""
        return self._by_id.get(id(value))

    def provider_of(self, value: Any) -> str:
        """Distribution and version of the plugin that brought this very object; "" when none did."""
        offer = self.offer_of(value)
        if offer is not None:
            return offer.provider
        watched = self._watched.get(id(value))
        return watched[1].provider if watched else ""

    def resolve(
        self, candidates: Iterable[Any], key: str, prefer: Prefer | None = None, *, ranked: bool = True
    ) -> Any:
        """The one of several contributed objects that serves `key` (see `conflicts.resolve`).

        Says once on stderr when a plugin takes the place of something built in.
        """
        offers = [self.offer_of(value) or Offer(value, "(given)", "", "") for value in candidates]
        chosen = resolve(offers, key, prefer, ranked=ranked)
        if not chosen.builtin and key not in self._said and any(offer.builtin for offer in offers):
            self._said.add(key)
            self._host.say(f"{key} comes from plugin {chosen.plugin} ({chosen.provider}), not from deepstruct")
        return chosen.value

    def collect_all(self) -> None:
        """Collect every kind now, so that the records are complete."""
        for kind in COLLECTED:
            self.offers(kind)

    def _values(self, kind: str) -> list[Any]:
        return [offer.value for offer in self.offers(kind)]

    def _collect(self, hook: str, check: Callable[[Any], str | None]) -> list[Offer[Any]]:
        host = self._host
        found: list[Offer[Any]] = []
        for plugin in host.implementers(hook):
            for values in host.call(hook, plugin, ctx=host.context):
                try:
                    with host.quiet(plugin.record):
                        items = contracts.contributions(values, check)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a generator runs the plugin's code here
                    host.failed(plugin.record, error, hook=hook)
                    continue
                found.extend(self._remember(_offer(item, plugin.record)) for item in items)
        return found

    def _remember(self, offer: Offer[Any]) -> Offer[Any]:
        # The offer holds the object, so its id stays taken for as long as the entry lives.
        return self._by_id.setdefault(id(offer.value), offer)

    def _watch(self, rule: Any, record: PluginRecord) -> None:
        """Remember who made a rule for an instance, for as long as that rule lives."""
        key = id(rule)
        if key in self._by_id or key in self._watched:
            return
        try:
            alive = weakref.ref(rule, lambda _: self._watched.pop(key, None))
        except TypeError:  # without weak references (functions of C, __slots__) its provider stays unknown
            return
        self._watched[key] = (alive, record)


def _offer(value: Any, record: PluginRecord) -> Offer[Any]:
    return Offer(value, record.name, record.distribution, record.version, record.builtin)
