"""What the tests of this folder share: errors in words, and a model that stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import deepstruct
from deepstruct.errors import DeepstructError
from deepstruct.report import Report
from tests.bad_input.untouched import untouched


def tensors(example: Any) -> list[torch.Tensor]:
    values = example.values() if isinstance(example, dict) else example if isinstance(example, tuple) else [example]
    return [v for v in values if isinstance(v, torch.Tensor)]


@pytest.fixture
def refused() -> Callable[..., DeepstructError]:
    """(kind, model, input, *words, options) -> the error, which has all the words; nothing was changed.

    Both doors are tried: `analyze` and, where the options are its own as well, `extract`.
    """

    def check(kind: type[DeepstructError], model: Any, example: Any, *words: str, **options: Any) -> DeepstructError:
        with untouched(model, *tensors(example)), pytest.raises(DeepstructError) as caught:
            deepstruct.analyze(model, example, **options)
        error = caught.value
        assert type(error) is kind, f"{type(error).__name__}: {error}"
        for word in words:
            assert word in str(error), f"{word!r} is missing: {error}"
        if not options.keys() & {"orders", "metrics", "analyzer", "max_memory", "settings"}:
            with untouched(model, *tensors(example)), pytest.raises(kind):
                deepstruct.extract(model, example, **options)
        return error

    return check


@pytest.fixture
def analysed() -> Callable[..., Report]:
    """(model, input, options) -> the report; nothing was changed."""

    def run(model: Any, example: Any = None, **options: Any) -> Report:
        with untouched(model, *tensors(example)):
            return deepstruct.analyze(model, example, **options)

    return run
