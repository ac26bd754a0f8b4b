"""Edge operators against the dense matrices that their explicit edges make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import (
    Conv,
    EdgeOperator,
    Identity,
    Matmul,
    Separable,
    Sparse,
    WeightMode,
    WeightRef,
)

MODES: tuple[WeightMode, ...] = ("pattern", "abs", "square", "signed")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(shape: Sequence[int], offset: int = 0) -> Operand:
    stride = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    return Operand.strided(tuple(shape), tuple(stride), offset)


def stored(shape: Sequence[int], *, zeros: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> WeightRef:
    weight = torch.randn(tuple(shape), generator=generator(seed), dtype=torch.float64)
    weight[torch.rand(tuple(shape), generator=generator(seed + 1)) < zeros] = 0
    return WeightRef(("test", seed), weight.to(dtype))


def conv(
    shape: Sequence[int], channels: tuple[int, int], kernel: Sequence[int], *, stride: int = 1, padding: int = 0,
    dilation: int = 1, groups: int = 1, transposed: bool = False, output_padding: int = 0, zeros: float = 0.0,
    threshold: float = 0.0, batch: int = 1,
) -> Conv:  # fmt: skip
    rank = len(shape)
    c_in, c_out = channels
    weight = stored((c_in, c_out // groups, *kernel) if transposed else (c_out, c_in // groups, *kernel), zeros=zeros)
    one = (stride,) * rank, (padding,) * rank, (dilation,) * rank
    x = torch.zeros(batch, c_in, *shape, dtype=torch.float64)
    y = torch.ops.aten.convolution(x, weight.tensor, None, *one, transposed, (output_padding,) * rank, groups)
    target = plain(y.shape, offset=x.numel())
    return Conv(plain(x.shape), target, weight, *one, transposed, (output_padding,) * rank, groups, threshold)


@dataclass(frozen=True)
class Given:
    name: str
    make: Callable[[], EdgeOperator]


OPERATORS: list[Given] = []


def add(name: str, make: Callable[[], EdgeOperator]) -> None:
    OPERATORS.append(Given(name, make))


for rank, shape in ((1, (6,)), (2, (5, 4)), (3, (3, 4, 3))):
    for zeros in (0.0, 0.4):
        label = f"conv{rank}d" + (" pruned" if zeros else "")
        add(label, lambda s=shape, r=rank, z=zeros: conv(s, (2, 3), (3,) * r, padding=1, zeros=z))
        add(f"{label} stride", lambda s=shape, r=rank, z=zeros: conv(s, (2, 2), (2,) * r, stride=2, zeros=z))
        add(
            f"{label} dilation",
            lambda s=shape, r=rank, z=zeros: conv(s, (1, 2), (2,) * r, dilation=2, padding=1, zeros=z),
        )
        add(f"{label} groups", lambda s=shape, r=rank, z=zeros: conv(s, (4, 2), (2,) * r, groups=2, zeros=z))
        add(
            f"{label} depthwise",
            lambda s=shape, r=rank, z=zeros: conv(s, (2, 4), (3,) * r, groups=2, padding=1, zeros=z),
        )
        add(f"{label} transposed", lambda s=shape, r=rank, z=zeros: conv(
            s, (2, 3), (3,) * r, stride=2, padding=1, output_padding=1, transposed=True, zeros=z))  # fmt: skip
        add(f"{label} transposed groups", lambda s=shape, r=rank, z=zeros: conv(
            s, (4, 2), (2,) * r, dilation=2, groups=2, transposed=True, zeros=z))  # fmt: skip
add("conv2d threshold", lambda: conv((4, 4), (2, 2), (3, 3), padding=1, threshold=0.5))
add("conv2d uneven kernel", lambda: conv((4, 5), (1, 2), (1, 3), padding=1, stride=2))
add("conv2d batch", lambda: conv((3, 3), (2, 2), (2, 2), batch=2, zeros=0.3))
add("conv2d larger than its input", lambda: conv((2, 2), (1, 1), (5, 5), padding=2))

for zeros in (0.0, 0.5):
    label = "matmul" + (" pruned" if zeros else "")
    add(label, lambda z=zeros: Matmul(plain((3, 4)), plain((3, 5), 12), stored((4, 5), zeros=z)))
    add(f"{label} batch", lambda z=zeros: Matmul(plain((2, 3, 4)), plain((2, 3, 5), 24), stored((2, 4, 5), zeros=z)))
    add(f"{label} tokens", lambda z=zeros: Matmul(plain((2, 3, 4)), plain((2, 3, 5), 24), stored((4, 5), zeros=z)))
    add(f"{label} transposed weight", lambda z=zeros: Matmul(
        plain((3, 4)), plain((3, 5), 12),
        (lambda w: w._replace(tensor=w.tensor.T))(stored((5, 4), zeros=z))))  # fmt: skip
add("matmul threshold", lambda: Matmul(plain((3, 4)), plain((3, 5), 12), stored((4, 5)), threshold=0.7))
add("matmul fixed numbers", lambda: Matmul(
    plain((3, 4)), plain((3, 5), 12), stored((4, 5), zeros=0.5)._replace(learned=False)))  # fmt: skip
add(
    "matmul bfloat16", lambda: Matmul(plain((3, 4)), plain((3, 5), 12), stored((4, 5), zeros=0.3, dtype=torch.bfloat16))
)
add("mix", lambda: Matmul(plain((2, 3, 4)), plain((2, 3, 5), 24)))
add("mix with a pattern", lambda: Matmul(
    plain((2, 3, 4)), plain((2, 3, 5), 24), pattern=torch.rand(2, 4, 5, generator=generator(3)) < 0.6))  # fmt: skip
add("mix with a shared pattern", lambda: Matmul(
    plain((2, 3, 4)), plain((2, 3, 5), 24), pattern=torch.rand(4, 5, generator=generator(3)) < 0.6))  # fmt: skip
add("mix with a broadcast operand", lambda: Matmul(Operand.strided((2, 3, 4), (0, 4, 1), 0), plain((2, 3, 2), 12)))
add("separable", lambda: Separable(
    plain((2, 4, 5)), plain((2, 3, 2), 40),
    [None, torch.rand(3, 4, generator=generator(1)) < 0.5,
     torch.rand(2, 5, generator=generator(2)) < 0.5]))  # fmt: skip
add("separable reduction", lambda: Separable(
    plain((2, 4)), plain((1, 4), 8), [torch.ones(1, 2, dtype=torch.bool), None]))  # fmt: skip
add(
    "separable scan",
    lambda: Separable(plain((2, 4)), plain((2, 4), 8), [None, torch.ones(4, 4, dtype=torch.bool).tril()]),
)
add("identity", lambda: Identity(plain((2, 3)), plain((2, 3), 6)))
add("identity, partly fused", lambda: fused(torch.tensor([[True, False, True], [False, False, True]])))
add("identity, all fused", lambda: fused(True))
add("sparse", lambda: Sparse(
    plain((2, 3)), plain((4,), 6), torch.tensor([0, 5, 2, 2]), torch.tensor([1, 0, 3, 1])))  # fmt: skip
add("sparse with weights", lambda: Sparse(
    plain((2, 3)), plain((4,), 6), torch.tensor([0, 5, 2, 2]), torch.tensor([1, 0, 3, 1]),
    stored((4,), zeros=0.4)))  # fmt: skip


def fused(which: bool | torch.Tensor) -> Identity:
    op = Identity(plain((2, 3)), plain((2, 3), 6), True)
    op.fused = which
    return op


def dense(op: EdgeOperator, mode: WeightMode) -> torch.Tensor:
    """(target elements, source elements) from the explicit edges."""
    matrix = torch.zeros(op.target.numel, op.source.numel, dtype=torch.float64)
    for piece in op.edges():
        values = piece.weight if op.weight is not None and op.weighted else torch.ones_like(piece.weight)
        values = {
            "pattern": torch.ones_like(values), "abs": values.abs(), "square": values.square(), "signed": values,
        }[mode]  # fmt: skip
        matrix.index_put_((piece.target, piece.source), values, accumulate=True)
    return matrix


def numbers(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=generator(seed), dtype=torch.float64)


def has_numbers(op: EdgeOperator, mode: WeightMode) -> bool:
    """Whether its edges hold the numbers of a mode: those of fixed weights do not, and fused edges are none."""
    return not isinstance(op, Identity) and (mode == "pattern" or op.weight is None or op.weighted)


NUMBERED = [(g, mode) for g in OPERATORS for mode in MODES if has_numbers(g.make(), mode)]
WEIGHTED = [g for g in OPERATORS if g.make().weight is not None]


@pytest.mark.parametrize(("given", "mode"), NUMBERED, ids=lambda v: v.name if isinstance(v, Given) else v)
def test_forward_is_the_matrix_of_its_edges(given: Given, mode: WeightMode) -> None:
    op = given.make()
    x = numbers(op.source.shape, 5)
    expected = (dense(op, mode) @ x.reshape(-1)).reshape(op.target.shape)
    torch.testing.assert_close(op.forward(x, mode), expected)


@pytest.mark.parametrize("given", WEIGHTED, ids=lambda g: g.name)
def test_weight_usage(given: Given) -> None:
    """For each stored weight the edges through it: by zeroing all the others."""
    op = given.make()
    assert op.weight is not None
    x = (torch.rand(op.source.shape, generator=generator(10)) < 0.7).to(torch.float64)
    y = (torch.rand(op.target.shape, generator=generator(11)) < 0.7).to(torch.float64)
    tensor = op.weight.tensor
    expected = torch.zeros(tensor.shape, dtype=torch.float64)
    for position in range(tensor.numel()):
        only = torch.zeros(tensor.numel(), dtype=torch.float64)
        only[position] = tensor.reshape(-1)[position].to(torch.float64)
        if only[position].abs() <= op.threshold:
            continue
        single = given.make()
        single.weight = op.weight._replace(tensor=only.reshape(tensor.shape))
        expected.view(-1)[position] = (single.forward(x) * y).sum()
    torch.testing.assert_close(op.weight_usage(x, y).to(torch.float64).expand(tensor.shape), expected)


@pytest.mark.parametrize("given", OPERATORS, ids=lambda g: g.name)
class TestOperator:
    @pytest.mark.parametrize("mode", MODES)
    def test_backward_is_the_transpose(self, given: Given, mode: WeightMode) -> None:
        op = given.make()
        x, y = numbers(op.source.shape, 5), numbers(op.target.shape, 6)
        left = (op.forward(x, mode) * y).sum()
        right = (x * op.backward(y, mode)).sum()
        torch.testing.assert_close(left, right)

    def test_count(self, given: Given) -> None:
        op = given.make()
        listed = sum(len(piece.source) for piece in op.edges())
        if isinstance(op, Identity):
            kept = op.kept()
            assert listed == (op.source.numel if kept is None else int(kept.sum()))
            return
        assert op.count() == listed
        source = torch.rand(op.source.shape, generator=generator(7)) < 0.6
        target = torch.rand(op.target.shape, generator=generator(8)) < 0.6
        matrix = dense(op, "pattern")
        assert op.count(source, None) == int((matrix * source.reshape(1, -1)).sum())
        assert op.count(None, target) == int((matrix * target.reshape(-1, 1)).sum())
        assert op.count(source, target) == int((matrix * source.reshape(1, -1) * target.reshape(-1, 1)).sum())

    def test_touches(self, given: Given) -> None:
        """By position alone: a weight that is zero still reads."""
        op = given.make()
        units = torch.rand(op.source.shape, generator=generator(9)) < 0.3
        if op.weight is not None:
            full = given.make()
            full.weight = full.weight._replace(tensor=torch.ones_like(full.weight.tensor))
            full.threshold = 0.0
        else:
            full = op
        if isinstance(full, Identity):
            expected = units
        else:
            expected = (dense(full, "pattern") @ units.reshape(-1).to(torch.float64)).reshape(op.target.shape) > 0
        assert torch.equal(op.touches(units), expected)

    def test_fan_in_is_a_bound(self, given: Given) -> None:
        op = given.make()
        most = int(dense(op, "pattern").sum(1).max()) if op.target.numel else 0
        assert most <= op.fan_in()

    def test_zero_on_zero(self, given: Given) -> None:
        op = given.make()
        assert not op.forward(torch.zeros(op.source.shape, dtype=torch.float64)).any()
        assert not op.backward(torch.zeros(op.target.shape, dtype=torch.float64)).any()

    def test_float32_counts_small_numbers_exactly(self, given: Given) -> None:
        op = given.make()
        x = torch.ones(op.source.shape)
        exact = op.forward(x.to(torch.float64))
        assert torch.equal(op.forward(x).to(torch.float64), exact)


@st.composite
def geometries(draw: st.DrawFn) -> Conv:
    rank = draw(st.integers(1, 2))
    groups = draw(st.sampled_from((1, 1, 2)))
    channels = tuple(groups * draw(st.integers(1, 2)) for _ in range(2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 2))
    transposed = draw(st.booleans())
    smallest = 1 if transposed else max(1, max(dilation * (k - 1) + 1 - 2 * padding for k in kernel))
    if transposed:
        padding = min(padding, min(dilation * (k - 1) for k in kernel) // 2)
    shape = tuple(draw(st.integers(smallest, smallest + 3)) for _ in range(rank))
    return conv(
        shape, channels, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups,  # type: ignore[arg-type]
        transposed=transposed, zeros=draw(st.sampled_from((0.0, 0.5))),
    )  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(op=geometries())
def test_random_convolutions(op: Conv) -> None:
    matrix = dense(op, "signed")
    x, y = numbers(op.source.shape, 1), numbers(op.target.shape, 2)
    torch.testing.assert_close(op.forward(x, "signed").reshape(-1), matrix @ x.reshape(-1))
    torch.testing.assert_close(op.backward(y, "signed").reshape(-1), matrix.T @ y.reshape(-1))
    assert op.count() == int(dense(op, "pattern").sum())


def test_patterns_are_exact_beyond_float32() -> None:
    """Path counts pass through operators in float64: integers up to 2**53 stay exact."""
    op = Matmul(plain((1, 3)), plain((1, 2), 3))
    big = torch.tensor([[2.0**52, 1.0, 2.0]], dtype=torch.float64)
    assert op.forward(big)[0, 0].item() == 2**52 + 3


@pytest.mark.parametrize("name", ["conv2d", "matmul"])
def test_meta_weights_count_as_dense(name: str) -> None:
    """Weights without values in memory are taken to be all non-zero."""
    op = next(g.make() for g in OPERATORS if g.name == name)
    meta = type(op).__new__(type(op))
    meta.__dict__.update(op.__dict__)
    meta.weight = op.weight._replace(tensor=op.weight.tensor.to("meta"))
    meta.__dict__.pop("taps", None)
    assert meta.count() == op.count()
    assert sum(len(p.source) for p in meta.edges()) == op.count()
