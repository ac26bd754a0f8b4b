"""Training with masks, and the checkpoints that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from deepstruct.demo.data import Digits
from deepstruct.demo.models import MODELS
from deepstruct.demo.pruning import Masks, apply_masks, densities, full_masks, prune_to

BATCH = 64


def train(model: nn.Module, digits: Digits, masks: Masks, *, epochs: int, rate: float, seed: int) -> None:
    """Adam with a one-cycle rate; weights that masks remove stay at zero throughout."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    batches = -(-len(digits.train_labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(digits.train_labels), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits.train_images[rows]), digits.train_labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            # Adam's momentum moves weights without a gradient too: masking the weights is what holds.
            apply_masks(model, masks)


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that are classified correctly."""
    model.eval()
    return float((model(digits.test_images).argmax(1) == digits.test_labels).float().mean())


def train_and_prune(
    name: str, digits: Digits, folder: Path, *, steps: int, final_density: float, epochs: int, seed: int = 0
) -> Iterator[Path]:
    """Train a network densely, then prune and train on, step by step; yields each checkpoint's path.

    Beside `<name>-step-<k>.pt`, the state dict, stands `<name>-step-<k>.json` with what the training
    knows of it: accuracy on the test images, step, density asked for.
    """
    torch.manual_seed(seed)
    model = MODELS[name]()
    masks = full_masks(model)
    for step, density in enumerate(densities(steps, final_density)):
        masks = prune_to(model, masks, density)
        apply_masks(model, masks)
        first = step == 0
        train(
            model, digits, masks, epochs=epochs if first else max(1, epochs // 2), rate=0.01, seed=seed + step
        )
        path = folder / f"{name}-step-{step:02d}.pt"
        torch.save(model.state_dict(), path)
        notes = {"model": name, "step": step, "density": density, "accuracy": accuracy(model, digits)}
        path.with_suffix(".json").write_text(json.dumps(notes, indent=2) + "\n")
        yield path
