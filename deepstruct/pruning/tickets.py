"""Lottery tickets: train, prune, rewind, and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from deepstruct.errors import InputError
from deepstruct.pruning.bake import dense_state_dict, load_dense
from deepstruct.pruning.finding import find_targets
from deepstruct.pruning.masks import get_masks, set_masks
from deepstruct.pruning.plan import Plan
from deepstruct.pruning.protocols import Constraint, Scope, Score, Tensors
from deepstruct.pruning.scopes import Layer
from deepstruct.pruning.scores import Magnitude

State = dict[str, Tensor]


def snapshot(model: nn.Module) -> State:
    """Copies of all parameters and buffers by their names in the plain model; masks are not among them."""
    return {name: tensor.detach().clone() for name, tensor in dense_state_dict(model).items()}


def rewind(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set a model back to a snapshot, under its present masks."""
    load_dense(model, state)


@dataclass(frozen=True)
class Keep:
    """Densities after k rounds that each keep a share of every weight tensor; `others`: pattern -> its own share."""

    share: float
    others: Mapping[str, float]

    def densities(self, names: Iterable[str], rounds: int) -> dict[str, float]:
        """Name -> density."""
        found = {}
        for name in names:
            rate = next((r for p, r in self.others.items() if fnmatchcase(name, p)), self.share)
            found[name] = rate**rounds
        return found


def keep(share: float, others: Mapping[str, float] | None = None) -> Keep:
    """Keep this share of what is left in every round: keep(.8, {"*.4.weight": .9}) is gentler to one layer."""
    for value in (share, *(others or {}).values()):
        if not 0 < value <= 1:
            raise InputError(f"keep({value}): write a share above 0, up to 1")
    return Keep(share, dict(others or {}))


@dataclass(frozen=True)
class Round:
    """One round: the masks it was trained with, their density, and what `train` returned."""

    number: int
    density: float
    masks: Tensors
    result: Any


def iterate(
    train: Callable[[nn.Module], Any],
    model: nn.Module,
    schedule: Keep,
    rounds: int,
    rewind: State | Callable[[nn.Module], None] | None = None,
    *,
    score: Score | None = None,
    scope: Scope | None = None,
    constraint: Constraint | None = None,
    only: str | Iterable[str] | None = None,
    skip: str | Iterable[str] = (),
    example_input: Any = None,
) -> list[Round]:
    """Train, prune by the trained weights, rewind, train again (Frankle and Carbin 2019).

    The model is trained `rounds` times and pruned between; it is left as the last round trained it, with its masks.

    Args:
        train: trains the model in place, with an optimizer of its own; what it returns is kept with the round.
        schedule: `keep(.8)`.
        rewind: a `snapshot`, from the beginning or early in training; or what to do with the model instead (draw new
            weights, say); None trains on from where it is.
        score, scope: `Magnitude()` and `Layer()` unless given.
    """
    if rounds < 1:
        raise InputError(f"rounds={rounds}: at least 1")
    plan = Plan(
        Magnitude() if score is None else score, Layer() if scope is None else scope, lambda step: None, constraint,
        only=only, skip=skip,
    )  # fmt: skip
    found = []
    for number in range(rounds):
        targets = find_targets(model, only, skip)
        if number:
            session = plan.attach(model, example_input=example_input)
            session.take(plan.masks(session.view(), schedule.densities(targets, number)))
            session.close()
            _rewind(model, rewind)
        result = train(model)
        masks = {name: target.mask() for name, target in find_targets(model, only, skip).items()}
        kept = sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())
        found.append(Round(number, kept, masks, result))
    return found


def _rewind(model: nn.Module, to: State | Callable[[nn.Module], None] | None) -> None:
    if callable(to):
        to(model)
        set_masks(model, get_masks(model))
    elif to is not None:
        load_dense(model, to)


def permuted(masks: Mapping[str, Tensor], seed: int = 0) -> Tensors:
    """Masks with as many connections in each tensor, at random places: what a ticket is worth beyond its densities."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
        found[name] = mask.reshape(-1)[order].reshape(mask.shape)
    return found
