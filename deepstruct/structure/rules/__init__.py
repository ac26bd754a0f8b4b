"""The built-in structure rules, one file per structural class, offered through the same hook as anybody's."""

from __future__ import annotations

from deepstruct.plugin.markers import hookimpl
from deepstruct.structure.rules.base import Rule, RuleSet

__all__ = ["Rule", "RuleSet", "deepstruct_rules"]


@hookimpl
def deepstruct_rules() -> list[Rule]:
    """All built-in rules."""
    from deepstruct.structure.rules import (
        algebra,
        attention,
        contraction,
        dag,
        loss,
        masked,
        norm,
        pointwise,
        recurrent,
        reindex,
        sample,
        scatter,
        spectral,
        window,
    )

    files = (
        pointwise, reindex, scatter, contraction, window, norm, recurrent, sample, spectral, algebra, loss, masked,
        attention, dag,
    )  # fmt: skip
    return [rule for file in files for rule in file.rules.rules]
