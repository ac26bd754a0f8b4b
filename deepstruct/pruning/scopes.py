"""Scopes: which weights compete for the places that a density leaves, and how many places there are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Density, Group, Tensors


class Base:
    """The best single weights of each group.

    Args:
        density: of the whole, for uses without a schedule (`Rewire(init=ERK(.01))`).
    """

    def __init__(self, density: float | None = None) -> None:
        self.density = density

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        """See `Scope`."""
        raise NotImplementedError

    def select(
        self, scores: Mapping[str, Tensor], density: Density, allowed: Mapping[str, Tensor] | None = None
    ) -> Tensors:
        """Masks with exactly the budgeted number of weights, the highest scores; of equal ones the earlier.

        Raises InputError where a score is NaN, or the density no share.
        """
        check_scores(scores)
        masks: Tensors = {}
        for group in self.groups({name: score.shape for name, score in scores.items()}, density):
            flat = torch.cat([_flat(scores[name], allowed, name) for name in group.names])
            free = sum(scores[n].numel() if allowed is None else int(allowed[n].sum()) for n in group.names)
            chosen = best(flat, min(group.keep, free))
            for name, part in zip(group.names, chosen.split([scores[n].numel() for n in group.names]), strict=True):
                masks[name] = part.reshape(scores[name].shape).to(scores[name].device)
        return masks


def best(scores: Tensor, count: int) -> Tensor:
    """Boolean of the `count` highest of a flat tensor; of equal ones the earlier."""
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    if count > 0:
        chosen[torch.sort(scores, descending=True, stable=True).indices[:count]] = True
    return chosen


def _flat(score: Tensor, allowed: Mapping[str, Tensor] | None, name: str) -> Tensor:
    flat = score.detach().to("cpu", torch.float64).reshape(-1)
    return flat if allowed is None else torch.where(allowed[name].cpu().reshape(-1), flat, -torch.inf)


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Raise InputError for scores that cannot be ranked."""
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise InputError(f"the score of {name!r} is NaN in {int(torch.isnan(score).sum())} places")


def share(density: Density, name: str) -> float:
    """The density of one weight. Raises InputError where there is none, or it is no share."""
    if isinstance(density, Mapping):
        if name not in density:
            raise InputError(f"no density is given for {name!r}")
        value = density[name]
    else:
        value = density
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"density {value!r} of {name!r}: write a share from 0 to 1")
    return float(value)


class Global(Base):
    """All weights compete: round(density * all) stay. With densities by name, their budgets are pooled."""

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        total = sum(share(density, name) * shape.numel() for name, shape in shapes.items())
        return [Group(tuple(shapes), round(total))]


class Layer(Base):
    """The weights of each tensor compete: round(density * size) stay in each."""

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        return [Group((name,), round(share(density, name) * shape.numel())) for name, shape in shapes.items()]


class ERK(Base):
    """Erdos-Renyi-Kernel: densities in proportion to (sum of axes) / (product of axes) (Mocanu 2018, Evci 2020).

    Layers that would be denser than full are full, and what they leave is shared among the others. Budgets are
    rounded by largest remainders, so that they add up to round(density * all).
    """

    def densities(self, shapes: Mapping[str, torch.Size], density: Density) -> dict[str, float]:
        """Density of each weight tensor, before rounding."""
        if isinstance(density, Mapping):
            raise InputError("ERK shares one density out among the layers: give it a number, not one for each name")
        for name in shapes:
            share(density, name)
        full: set[str] = set()
        raw = {n: sum(s) / s.numel() if s.numel() else 0.0 for n, s in shapes.items()}
        while True:
            budget = density * sum(s.numel() for s in shapes.values()) - sum(shapes[n].numel() for n in full)
            weight = sum(raw[n] * s.numel() for n, s in shapes.items() if n not in full)
            factor = budget / weight if weight else 0.0
            over = {n for n in shapes if n not in full and factor * raw[n] > 1}
            if not over:
                return {n: 1.0 if n in full else max(factor * raw[n], 0.0) for n in shapes}
            # the densest one first: filling several at once can leave too little for the others
            full.add(max(over, key=lambda n: raw[n]))

    def groups(self, shapes: Mapping[str, torch.Size], density: Density) -> list[Group]:
        wanted = {n: d * shapes[n].numel() for n, d in self.densities(shapes, density).items()}
        keep = {n: int(w) for n, w in wanted.items()}
        left = round(sum(wanted.values())) - sum(keep.values())
        for name in sorted(wanted, key=lambda n: keep[n] - wanted[n])[:left]:
            keep[name] += 1
        return [Group((name,), count) for name, count in keep.items()]
