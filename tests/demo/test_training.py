"""Pruning by global magnitude, training under masks, and the checkpoints of the demonstration."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from deepstruct.checkpoints import load_state_dict
from deepstruct.demo.data import load_digits
from deepstruct.demo.models import EXAMPLE_SHAPE, MODELS
from deepstruct.demo.pruning import apply_masks, densities, full_masks, prunable, prune_to
from deepstruct.demo.training import accuracy, train, train_and_prune
from deepstruct.errors import InputError


def count(masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("density", [1.0, 0.3, 0.01])
def test_pruning_keeps_the_largest(name, density) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    masks = prune_to(model, full_masks(model), density)
    total = sum(weight.numel() for weight in prunable(model).values())
    assert count(masks) == max(1, round(density * total))
    weights = prunable(model)
    kept = torch.cat([weights[n][m].abs() for n, m in masks.items()])
    gone = torch.cat([weights[n][~m].abs() for n, m in masks.items()])
    if len(gone):
        assert kept.min() >= gone.max()


def test_equal_magnitudes_are_cut_exactly() -> None:
    model = nn.Linear(10, 10)
    nn.init.ones_(model.weight)
    model = nn.Sequential(model)
    assert count(prune_to(model, full_masks(model), 0.37)) == 37


def test_what_was_pruned_stays_pruned() -> None:
    model = MODELS["mlp"]()
    first = prune_to(model, full_masks(model), 0.5)
    apply_masks(model, first)
    for weight in prunable(model).values():  # as if it had grown back
        weight.data.add_(1.0)
    second = prune_to(model, first, 0.2)
    assert all(bool((second[name] <= first[name]).all()) for name in first)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1])
def test_bad_densities(density) -> None:
    model = MODELS["mlp"]()
    with pytest.raises(InputError):
        prune_to(model, full_masks(model), density)


def test_densities_fall_by_one_factor() -> None:
    assert densities(4, 0.0001) == pytest.approx([1, 0.1, 0.01, 0.001, 0.0001])


def test_training_respects_masks_and_learns() -> None:
    digits = load_digits()
    torch.manual_seed(0)
    model = MODELS["mlp"]()
    before = accuracy(model, digits)
    masks = prune_to(model, full_masks(model), 0.3)
    apply_masks(model, masks)
    train(model, digits, masks, epochs=3, rate=0.01, seed=0)
    assert accuracy(model, digits) > max(0.8, before)
    for name, weight in prunable(model).items():
        assert not weight[~masks[name]].any()


def test_the_digits_are_split_the_same_way() -> None:
    one, two = load_digits(3), load_digits(3)
    assert torch.equal(one.test_labels, two.test_labels)
    assert len(one.train_labels) + len(one.test_labels) == 1797
    assert one.train_images.shape[1:] == EXAMPLE_SHAPE[1:]
    assert not torch.equal(one.test_labels, load_digits(4).test_labels)


def test_checkpoints_are_the_same_for_one_seed(tmp_path) -> None:
    digits = load_digits()
    states = []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        paths = list(
            train_and_prune("mlp", digits, tmp_path / run, steps=2, final_density=0.1, epochs=2, seed=5)
        )
        assert [p.name for p in paths] == ["mlp-step-00.pt", "mlp-step-01.pt", "mlp-step-02.pt"]
        states.append([load_state_dict(path) for path in paths])
        notes = json.loads(paths[-1].with_suffix(".json").read_text())
        assert notes["density"] == pytest.approx(0.1)
        assert 0 <= notes["accuracy"] <= 1
    for one, two in zip(*states, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    left = sum(int(states[0][-1][name].count_nonzero()) for name in prunable(MODELS["mlp"]()))
    assert left == round(0.1 * 17024)
