"""The built-in structure rules, one file per structural class, offered through the same hook as anybody's."""

from __future__ import annotations

from deepstruct.plugin.markers import hookimpl
from deepstruct.structure.rules.base import Rule, RuleSet

__all__ = ["Rule", "RuleSet", "deepstruct_rules"]


@hookimpl
def deepstruct_rules() -> list[Rule]:
    """All built-in rules."""
    from deepstruct.structure.rules import contraction, norm, pointwise, recurrent, reindex, window

    files = (pointwise, reindex, contraction, window, norm, recurrent)
    rules = {rule.name: rule for file in files for rule in reversed(file.rules.rules)}
    # the lookup rule of contraction replaces the plain re-indexing of the same ops
    for rule in contraction.rules.rules:
        rules[rule.name] = rule
    return list(rules.values())
