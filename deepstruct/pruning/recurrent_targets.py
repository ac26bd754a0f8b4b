"""Weights of masked recurrent layers as targets: their masks are buffers of the layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepstruct.pruning.targets import Target
from deepstruct.recurrent import BaseRecurrentLayer

MASKS = {"_weight_ih": "_mask_i2h", "_weight_hh": "_mask_h2h"}  # weight -> mask


class RecurrentMask(Target):
    """One of the two weights of a masked recurrent layer."""

    def __init__(self, name: str, layer: BaseRecurrentLayer, own: str) -> None:
        super().__init__(name, [layer])
        self.layer, self.own = layer, own

    @property
    def parameter(self) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self.layer, self.own)
        return parameter

    def mask(self) -> Tensor:
        mask: Tensor = getattr(self.layer, MASKS[self.own])
        return mask.clone()

    def watch(self, on: bool) -> None:
        seen = {k: v for k, v in (self.layer.gradients or {}).items() if k != self.own}
        self.layer.gradients = {**seen, self.own: None} if on else seen or None

    def gradient(self) -> Tensor | None:
        return (self.layer.gradients or {}).get(self.own)

    def _set(self, mask: Tensor) -> None:
        with torch.no_grad():
            getattr(self.layer, MASKS[self.own]).copy_(mask)
