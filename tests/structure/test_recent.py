"""Patterns that are kept: never stale, within their bytes, gone with the tensor."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from deepstruct.structure.operators.base import WeightRef, weights_in
from deepstruct.structure.operators.recent import RecentPatterns


def counting(tensor: torch.Tensor, calls: list[int]) -> Callable[[], torch.Tensor]:
    def make() -> torch.Tensor:
        calls.append(1)
        return (tensor != 0).to(torch.float32)

    return make


def test_the_same_tensor_is_read_once() -> None:
    kept, calls, tensor = RecentPatterns(1000), [], torch.tensor([1.0, 0.0, 2.0])
    first = kept.get(tensor, make=counting(tensor, calls))
    assert kept.get(tensor, make=counting(tensor, calls)) is first
    assert (len(calls), kept.bytes) == (1, 12)
    assert kept.get(tensor, "otherwise", make=counting(tensor, calls)) is not first
    assert (len(calls), kept.bytes) == (2, 24)


def test_a_write_in_place_is_noticed() -> None:
    kept, calls, tensor = RecentPatterns(1000), [], torch.tensor([1.0, 0.0, 2.0])
    kept.get(tensor, make=counting(tensor, calls))
    tensor[0] = 0
    assert kept.get(tensor, make=counting(tensor, calls)).tolist() == [0, 0, 1]


def test_tensors_without_a_version_are_not_kept() -> None:
    kept, calls = RecentPatterns(1000), []
    with torch.inference_mode():
        tensor = torch.ones(3)
    for _ in range(2):
        kept.get(tensor, make=counting(tensor, calls))
    assert (len(calls), kept.bytes) == (2, 0)


def test_the_oldest_goes_first_and_what_is_too_large_is_never_kept() -> None:
    kept, calls = RecentPatterns(24), []
    a, b, c, large = torch.ones(3), torch.ones(3), torch.ones(3), torch.ones(7)
    for tensor in (a, b, a, c, a, large):  # b was used longest ago when c comes
        kept.get(tensor, make=counting(tensor, calls))
    assert (len(calls), kept.bytes) == (4, 24)
    kept.get(b, make=counting(b, calls))
    assert (len(calls), kept.bytes) == (5, 24)


def test_a_pattern_is_forgotten_with_its_tensor() -> None:
    kept, tensor = RecentPatterns(1000), torch.ones(3)
    kept.get(tensor, make=counting(tensor, []))
    assert kept.bytes == 12
    del tensor
    gc.collect()
    assert kept.bytes == 0


def test_weights_are_read_as_they_are_now() -> None:
    tensor = torch.tensor([[1.0, 0.0], [0.5, 2.0]])
    ref = WeightRef(("weight",), tensor)
    assert weights_in(ref, "pattern", torch.float64, 0.0).tolist() == [[1, 0], [1, 1]]
    assert weights_in(ref, "pattern", torch.float64, 0.75).tolist() == [[1, 0], [0, 1]]
    tensor[1, 0] = 0
    assert weights_in(ref, "pattern", torch.float64, 0.0).tolist() == [[1, 0], [0, 1]]
