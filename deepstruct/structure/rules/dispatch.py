"""Which rule an operation or a call gets: exact type, nearest base class, priority, instance, ops inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn

from deepstruct.structure.rules.base import Rule


class Dispatcher:
    """Looks rules up in the plugin host's registry (`rules`, `rule_for`, `resolve`, `offer_of`, `provider_of`)."""

    def __init__(self, registry: Any, prefer: Any = None) -> None:
        self._registry, self._prefer = registry, prefer
        self._ops: dict[str, list[Rule]] = defaultdict(list)
        self._functions: dict[str, list[Rule]] = defaultdict(list)
        self._types: dict[str, list[Rule]] = defaultdict(list)
        self._chosen: dict[tuple[str, str], Rule | None] = {}
        self._foreign: dict[int, tuple[Rule, str]] = {}
        self.used: dict[str, str] = {}  # rule name -> provider, for what was really used
        for rule in registry.rules:
            if not isinstance(rule, Rule):
                continue
            if rule.kind == "op":
                self._ops[str(rule.target)].append(rule)
            elif rule.kind == "function":
                self._functions[str(rule.target)].append(rule)
            else:
                self._types[_type_name(rule.target)].append(rule)

    def for_op(self, name: str) -> Rule | None:
        return self._pick("op", name, self._ops)

    def for_function(self, name: str) -> Rule | None:
        return self._pick("function", name, self._functions)

    def for_module(self, module: nn.Module, path: str) -> Rule | None:
        """The rule of the exact type, else of the nearest base class, else what a plugin says of the instance."""
        if self._types:
            for base in type(module).__mro__:
                rule = self._pick("module", f"{base.__module__}:{base.__qualname__}", self._types)
                if rule is not None:
                    return rule
        rule = self._registry.rule_for(module, path)
        if not isinstance(rule, Rule):
            return None
        self.used[rule.name] = self._registry.provider_of(rule)
        return rule

    def foreign(self, rule: Rule) -> str:
        """Distribution and version of the plugin that a rule comes from; "" for a built-in one."""
        if id(rule) not in self._foreign:
            offer = self._registry.offer_of(rule)
            built_in = offer is not None and offer.builtin
            # The rule is kept along with the answer, so that its id stays taken.
            self._foreign[id(rule)] = rule, "" if built_in else self._registry.provider_of(rule)
        return self._foreign[id(rule)][1]

    def _pick(self, kind: str, key: str, table: Mapping[str, list[Rule]]) -> Rule | None:
        if (kind, key) in self._chosen:
            return self._chosen[kind, key]
        candidates = table.get(key, [])
        rule: Rule | None = None
        if candidates:
            rule = self._registry.resolve(candidates, f"{kind} {key}", self._prefer)
            assert rule is not None
            self.used[rule.name] = self._registry.provider_of(rule)
        self._chosen[kind, key] = rule
        return rule


def _type_name(target: str | type) -> str:
    """ "package.module:Class" of a type; re-exported names are matched by the defining module as well."""
    if isinstance(target, type):
        return f"{target.__module__}:{target.__qualname__}"
    module, _, name = target.partition(":")
    import sys

    loaded = getattr(sys.modules.get(module), name, None)
    if isinstance(loaded, type):  # the name under which the class calls itself, if it is loaded at all
        return f"{loaded.__module__}:{loaded.__qualname__}"
    return target
