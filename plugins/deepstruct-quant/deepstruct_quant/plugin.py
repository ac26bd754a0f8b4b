"""The hooks. torchao itself is never imported here: only models with its weights bring it along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepstruct import hookimpl

if TYPE_CHECKING:
    from torch import nn

deepstruct_api = 1


@hookimpl
def deepstruct_rule_for(module: nn.Module, path: str) -> Any:
    """A linear layer or an embedding with quantised weights, which its type does not tell."""
    from deepstruct_quant.rules import rule_for

    return rule_for(module)


@hookimpl
def deepstruct_metrics() -> list[Any]:
    """How many values weights take, and what they carry."""
    from deepstruct_quant.metrics import METRICS

    return METRICS
