"""The edges of a network over a graph as a target that has a place for every edge that could be."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepstruct.pruning.optimizers import entries
from deepstruct.pruning.targets import Optimizers, Target
from deepstruct.sparse.dag import DagLinear
from deepstruct.sparse.dag_places import Places, Watch


class DagPairs(Target):
    """The weight of a DagLinear that grows: one place per pair of vertices from a lower layer to a higher one.

    The layer itself holds a weight for each edge that there is. Only where gradients of absent edges are watched
    does a pass cost as much as one over all pairs.
    """

    def __init__(self, name: str, layer: DagLinear) -> None:
        super().__init__(name, [layer])
        self.layer = layer
        self._places: Places | None = None

    @property
    def places(self) -> Places:
        if self._places is None or not self._places.fits(self.layer.structure):
            self._places = Places(self.layer.structure, self.layer.separate)
        return self._places

    @property
    def parameter(self) -> nn.Parameter:
        return self.layer.weight

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.places),))

    def weight(self) -> Tensor:
        own = torch.where(self.layer.mask, self.parameter.detach(), 0)
        return own.new_zeros(self.shape).index_put((self.places.of(self.layer.edges),), own)

    def mask(self) -> Tensor:
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        mask[self.places.of(self.layer.edges)] = self.layer.mask
        return mask

    def watch(self, on: bool) -> None:
        self.layer._watch = Watch(self.layer, self.places) if on else None

    def gradient(self) -> Tensor | None:
        return None if self.layer._watch is None else self.layer._watch.seen

    def check(self, optimizers: Optimizers, unknown: str) -> None:
        for parameter in (self.layer.weight, self.layer.bias):
            entries(optimizers, parameter, unknown)

    def commit(self, mask: Tensor, optimizers: Optimizers = (), unknown: str = "raise") -> None:
        holding = [o for o in optimizers if any(p is self.parameter for g in o.param_groups for p in g["params"])]
        for parameter in (self.layer.weight, self.layer.bias):
            for state, name in entries(holding, parameter, unknown):
                if name in state and state[name].shape != parameter.shape:
                    state.clear()  # the caller said to reset what has no rule
        at = self.places.of(self.layer.edges)
        stays = self.layer.mask & mask[at]
        grown = mask.clone()
        grown[at[stays]] = False
        self.layer.update_structure(~stays, self.places.edges(grown), holding)


def with_all_edges(model: nn.Module) -> None:
    """Give the layers that grow every edge that they could have, those that are new of weight zero."""
    for layer in model.modules():
        if isinstance(layer, DagLinear) and layer.grows:
            places = Places(layer.structure, layer.separate)
            absent = torch.ones(len(places), dtype=torch.bool, device=layer.weight.device)
            absent[places.of(layer.edges)] = False
            layer.update_structure(None, places.edges(absent))
