"""Runs a pruning function over a model: the name that earlier versions had for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Engine:
    """Calls `fn_prune` on a model. `Plan` and `prune` do more."""

    def __init__(self, fn_prune: Callable[[nn.Module], Any]) -> None:
        self.fn_prune = fn_prune

    def run(self, model: nn.Module) -> Any:
        """What `fn_prune` returns for the model."""
        return self.fn_prune(model)
