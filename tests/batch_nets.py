"""A network that other processes can import, checkpoints of it, and work that ends the process it runs in."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Small(nn.Module):
    """One convolution, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def small_state(seed: int) -> dict[str, torch.Tensor]:
    """A state with about a third of its weights zero."""
    generator = torch.Generator().manual_seed(seed)
    state = {key: value.clone() for key, value in Small().state_dict().items()}
    for key in ("conv.weight", "head.weight"):
        values = torch.randn(state[key].shape, generator=generator)
        state[key] = values * (torch.rand(values.shape, generator=generator) > 0.3)
    return state


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs between runs of the same work: times and memory."""
    drop = ("seconds", "checkpoint_seconds", "peak_memory", "finished")
    return [{key: value for key, value in row.items() if key not in drop} for row in rows]


class Fragile:
    """Work that doubles numbers; of strings, "die" kills its process, "once:FILE" does so the first time."""

    def __call__(self, item: Any) -> Any:
        if isinstance(item, str):
            kind, _, rest = item.partition(":")
            if kind == "sleep":
                time.sleep(float(rest))
            if kind == "memory":
                return torch.ones(int(rest), dtype=torch.uint8).sum().item()
            if kind == "error":
                raise ValueError(rest)
            if kind == "threads":
                return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
            if kind == "die" or (kind == "once" and not Path(rest).exists()):
                Path(rest or os.devnull).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item
        return 2 * item
