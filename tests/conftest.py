"""Every test starts from the same random numbers: one that fails, fails again."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
