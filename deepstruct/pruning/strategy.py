"""Pruning strategies by the names of earlier versions: thin faces on scores and scopes."""

from __future__ import annotations

import torch
from torch import nn

from deepstruct.errors import InputError
from deepstruct.pruning.masks import get_masks, set_masks
from deepstruct.pruning.plan import prune
from deepstruct.pruning.protocols import Score
from deepstruct.pruning.scopes import Base, Global, Layer
from deepstruct.pruning.scores import Magnitude
from deepstruct.pruning.view import View


class PruningStrategy:
    """Prunes a model in place when it is run."""

    def run(self, model: nn.Module) -> None:
        """Change the masks of a model."""
        raise NotImplementedError


class AbsoluteThresholdStrategy(PruningStrategy):
    """Drops every connection whose score is below `theta`."""

    def __init__(self, theta: float, score: Score | None = None) -> None:
        self.theta, self.score = theta, Magnitude() if score is None else score

    def run(self, model: nn.Module) -> None:
        view = View(model)
        scores = self.score(view)
        set_masks(model, {name: mask & (scores[name] >= self.theta) for name, mask in view.masks.items()})


class RelativeThresholdStrategy(PruningStrategy):
    """Drops a share of all weights, the lowest scores, in each layer (`layerwise`) or in all together."""

    def __init__(self, ratio: float, layerwise: bool = False, score: Score | None = None) -> None:
        if not 0 <= ratio <= 1:
            raise InputError(f"ratio={ratio}: write a share from 0 to 1")
        self.ratio, self.score = ratio, Magnitude() if score is None else score
        self.scope: Base = Layer() if layerwise else Global()

    def run(self, model: nn.Module) -> None:
        prune(model, self.score, 1 - self.ratio, self.scope)


class BucketFillStrategy(PruningStrategy):
    """Drops the connections of the lowest scores until the sum of what was dropped would exceed `bucket`."""

    def __init__(self, bucket: float, score: Score | None = None) -> None:
        self.bucket, self.score = bucket, Magnitude() if score is None else score

    def run(self, model: nn.Module) -> None:
        view = View(model)
        scores, masks = self.score(view), get_masks(model)
        names = list(masks)
        flat = torch.cat([torch.where(masks[n], scores[n].double(), torch.inf).reshape(-1).cpu() for n in names])
        order = flat.argsort(stable=True)
        dropped = torch.zeros(len(flat), dtype=torch.bool)
        dropped[order[flat[order].cumsum(0) <= self.bucket]] = True
        parts = dict(zip(names, dropped.split([masks[n].numel() for n in names]), strict=True))
        set_masks(model, {n: mask & ~parts[n].reshape(mask.shape).to(mask.device) for n, mask in masks.items()})
