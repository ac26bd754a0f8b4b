"""The digits that scikit-learn ships: 1,797 handwritten ones of 8 x 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepstruct.errors import MissingExtraError


@dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8), standardised with the training part's statistics, and labels (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(seed: int = 0) -> Digits:
    """The digits, three quarters to train on and the rest to test, split the same way for one seed."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingExtraError(
            "the demo needs scikit-learn, matplotlib and pandas: pip install 'deepstruct[demo]'"
        ) from error
    data = load()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    cut = len(labels) * 3 // 4
    train, test = order[:cut], order[cut:]
    mean, std = images[train].mean(), images[train].std()
    images = (images - mean) / std
    return Digits(images[train], labels[train], images[test], labels[test])
