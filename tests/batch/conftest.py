"""Folders of checkpoints of a small network, for runs in this process and in others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from batch_nets import Small, small_state


@pytest.fixture
def example() -> torch.Tensor:
    return torch.zeros(1, 1, 6, 6)


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., Path]:
    """runs(5): a folder with step-0.pt ... step-4.pt, each with other weights and other zeros."""

    def make(count: int, name: str = "runs") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for k in range(count):
            torch.save(small_state(k), folder / f"step-{k}.pt")
        return folder

    return make


@pytest.fixture
def model() -> type[Small]:
    return Small
