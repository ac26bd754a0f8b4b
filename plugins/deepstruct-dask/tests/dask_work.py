"""Work that ends its process, and a network, for workers to import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Net(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Fragile:
    """Doubles numbers; "die" ends its process, "once:FILE" does so the first time, "error" raises."""

    def __call__(self, item: Any) -> Any:
        if isinstance(item, str):
            kind, _, place = item.partition(":")
            if kind == "error":
                raise ValueError("no")
            if kind == "pid":
                time.sleep(0.2)
                return os.getpid()
            if kind == "die" or not Path(place).exists():
                if place:
                    Path(place).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return item
        return 2 * item
