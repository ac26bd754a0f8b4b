"""Operands: strided views and index tensors read and write the same slots."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.structure.operand import CONST, MASKED, ZERO, Operand

SLOTS = 24
OPERANDS = {
    "whole": Operand.strided((4, 6), (6, 1), 0),
    "offset": Operand.strided((2, 3), (3, 1), 7),
    "transposed": Operand.strided((6, 4), (1, 6), 0),
    "every other": Operand.strided((4, 3), (6, 2), 1),
    "broadcast": Operand.strided((2, 3, 4), (0, 4, 1), 2),
    "broadcast twice": Operand.strided((2, 5, 3), (0, 0, 2), 3),
    "overlapping windows": Operand.strided((5, 3), (2, 1), 1),
    "sliding windows": Operand.strided((4, 4, 3), (4, 1, 1), 0),
    "single": Operand.strided((), (), 5),
    "empty": Operand.strided((0, 3), (3, 1), 0),
    "length one": Operand.strided((1, 4), (99, 1), 2),
    "table": Operand.indexed(torch.tensor([[3, 0, 3], [CONST, 7, ZERO]])),
    "table without units": Operand.indexed(torch.tensor([CONST, ZERO, MASKED])),
    "table with all units": Operand.indexed(torch.tensor([[5, 4], [3, 2]])),
}


@pytest.mark.parametrize("name", OPERANDS)
class TestOperand:
    def test_gather(self, name: str) -> None:
        operand = OPERANDS[name]
        slots = torch.arange(1.0, SLOTS + 1)
        index = operand.index()
        expected = torch.where(index >= 0, slots[index.clamp(min=0)], torch.tensor(-9.0))
        assert torch.equal(operand.gather(slots, fill=-9), expected)
        assert tuple(index.shape) == operand.shape
        assert operand.numel == index.numel()

    def test_gather_from_a_view(self, name: str) -> None:
        operand = OPERANDS[name]
        slots = torch.arange(2.0 * SLOTS)[SLOTS:]  # starts in the middle of its storage
        assert torch.equal(operand.gather(slots), operand.gather(slots.clone()))

    def test_accumulate(self, name: str) -> None:
        operand = OPERANDS[name]
        values = torch.randn(operand.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        slots = torch.ones(SLOTS, dtype=torch.float64)
        operand.accumulate(slots, values)
        expected = torch.ones(SLOTS, dtype=torch.float64)
        for slot, value in zip(operand.index().reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True):
            if slot >= 0:
                expected[slot] += value
        torch.testing.assert_close(slots, expected)

    def test_accumulate_is_the_transpose_of_gather(self, name: str) -> None:
        operand = OPERANDS[name]
        x = torch.randn(SLOTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y = torch.randn(operand.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        back = torch.zeros(SLOTS, dtype=torch.float64)
        operand.accumulate(back, y)
        torch.testing.assert_close((operand.gather(x) * y).sum(), (x * back).sum())

    def test_accumulate_takes_broadcast_values(self, name: str) -> None:
        operand = OPERANDS[name]
        one, many = torch.zeros(SLOTS), torch.zeros(SLOTS)
        operand.accumulate(one, torch.ones(()))
        operand.accumulate(many, torch.ones(operand.shape))
        assert torch.equal(one, many)

    @pytest.mark.parametrize("how", ["amin", "amax"])
    def test_reduce(self, name: str, how: str) -> None:
        operand = OPERANDS[name]
        values = torch.randn(operand.shape, generator=torch.Generator().manual_seed(1))
        slots = torch.zeros(SLOTS)
        operand.reduce(slots, values, how)
        expected = [0.0] * SLOTS
        pick = min if how == "amin" else max
        for slot, value in zip(operand.index().reshape(-1).tolist(), values.reshape(-1).tolist(), strict=True):
            if slot >= 0:
                expected[slot] = pick(expected[slot], value)
        assert torch.equal(slots, torch.tensor(expected))

    def test_valid_and_complete(self, name: str) -> None:
        operand = OPERANDS[name]
        valid, index = operand.valid(), operand.index()
        assert operand.complete == bool((index >= 0).all())
        if valid is None:
            assert operand.complete
        else:
            assert torch.equal(valid, index >= 0)
            assert not operand.complete

    def test_injective_is_never_wrong(self, name: str) -> None:
        operand = OPERANDS[name]
        units = operand.index()[operand.index() >= 0]
        if operand.injective:
            assert units.unique().numel() == units.numel()
        elif operand.stride is not None and operand.numel:
            assert units.unique().numel() < units.numel()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    stride=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    offset=st.integers(0, 3),
)
def test_any_strides(shape: list[int], stride: list[int], offset: int) -> None:
    operand = Operand.strided(tuple(shape), tuple(stride[: len(shape)]), offset)
    table = Operand.indexed(operand.index().clone())
    size = offset + 1 + 3 * sum(stride[: len(shape)])
    x = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    assert torch.equal(operand.gather(x), table.gather(x))
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    one, other = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    operand.accumulate(one, values)
    table.accumulate(other, values)
    torch.testing.assert_close(one, other)


def test_accumulate_of_a_view_of_the_slots() -> None:
    """An identity edge hands the slots to themselves."""
    slots = torch.arange(6.0)
    Operand.strided((3,), (1,), 3).accumulate(slots, Operand.strided((3,), (1,), 0).gather(slots))
    assert slots.tolist() == [0, 1, 2, 3, 5, 7]
    Operand.indexed(torch.tensor([5, 5, 4])).accumulate(slots, Operand.strided((3,), (1,), 0).gather(slots))
    assert slots.tolist() == [0, 1, 2, 3, 7, 8]
