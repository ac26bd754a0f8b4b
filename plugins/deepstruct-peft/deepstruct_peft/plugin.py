"""The hooks. peft itself is never imported here: only models that have its layers bring it along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepstruct import hookimpl

if TYPE_CHECKING:
    from torch import nn

deepstruct_api = 1


@hookimpl
def deepstruct_rule_for(module: nn.Module, path: str) -> Any:
    """One linear map for each adapted layer, whatever the adapter."""
    from deepstruct_peft.rules import rule_for

    return rule_for(module)


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """What adapters change."""
    from deepstruct_peft.metrics import METRICS

    return METRICS
