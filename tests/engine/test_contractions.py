"""One reading of stored weights against plain tensors: bits, sums by channel and tap, and products with ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deepstruct import extract
from deepstruct.engine import contractions
from deepstruct.structure.operators import Conv, Matmul
from deepstruct.structure.operators.base import alive
from deepstruct.structure.operators.contraction import Contraction, Live

NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (1, 3, 9, 8)),
    "grouped": (nn.Conv1d(6, 4, 5, padding=2, dilation=2, groups=2), (2, 6, 11)),
    "depthwise": (nn.Conv2d(70, 70, 3, padding=1, groups=70), (1, 70, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (1, 4, 5, 3)),
    "cubes": (nn.Conv3d(2, 3, 2, padding=1), (1, 2, 3, 4, 3)),
    "linear": (nn.Linear(130, 70), (1, 130)),
    "rows": (nn.Linear(9, 7), (2, 5, 9)),
    "half": (nn.Linear(9, 7).half(), (1, 9)),
    "double": (nn.Conv2d(3, 4, 3).double(), (1, 3, 6, 6)),
}


def pruned(name: str, share: float, threshold: float = 0.0) -> Contraction:
    module, shape = NETWORKS[name]
    torch.manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * (torch.rand_like(p.float()) >= share))
    graph = extract(module.eval(), torch.zeros(shape, dtype=next(module.parameters()).dtype), threshold=threshold)
    [op] = [op for op in graph.operators if isinstance(op, Contraction)]
    return op


CASES = pytest.mark.parametrize("name", NETWORKS)
SHARES = pytest.mark.parametrize("share", [0.0, 0.4, 0.95, 1.0])


@CASES
@SHARES
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_what_the_weights_say(name: str, share: float, threshold: float) -> None:
    op = pruned(name, share, threshold)
    assert op.weight is not None
    assert op.live is not None
    live, tensor = op.live, op.live.tensor
    mask = alive(tensor, threshold).reshape(live.first, live.second, live.taps)
    assert live.total == int(mask.sum())
    assert live.dense == bool(mask.all())
    sizes = tensor.double().abs().reshape(mask.shape) * mask
    by_group = (live.groups, live.first // live.groups, live.second, live.taps)
    assert torch.equal(live.by_row, mask.sum(1))
    assert torch.equal(live.by_column, mask.reshape(by_group).sum(1))
    torch.testing.assert_close(live.magnitudes[0], sizes.sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(live.magnitudes[1], sizes.reshape(by_group).sum(1), rtol=1e-12, atol=1e-12)
    if live.bits is not None:
        bytes_ = live.bits.view(np.uint8)
        bits = np.unpackbits(bytes_, axis=1, bitorder="little")[:, : live.second * live.taps]
        assert np.array_equal(bits.astype(bool), mask.reshape(live.first, -1).numpy())


@CASES
@SHARES
def test_plain_torch_says_the_same(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    op = pruned(name, share)
    assert op.live is not None
    monkeypatch.setenv("DEEPSTRUCT_NATIVE", "0")
    other = Live(op.live.tensor, 0.0, op.live.groups)
    assert other.bits is None
    assert other.total == op.live.total
    assert torch.equal(other.by_row, op.live.by_row)
    assert torch.equal(other.by_column, op.live.by_column)
    for mine, theirs in zip(op.live.magnitudes, other.magnitudes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@CASES
@SHARES
@pytest.mark.parametrize("transpose", [False, True])
def test_of_ones(name: str, share: float, transpose: bool) -> None:
    op = pruned(name, share)
    side = op.target if transpose else op.source
    ones = torch.ones(side.shape, dtype=torch.float64)
    run = op.backward if transpose else op.forward
    counts = contractions.of_ones(op, transpose=transpose)
    sizes = contractions.of_ones(op, transpose=transpose, magnitudes=True)
    assert counts is not None
    assert sizes is not None
    assert torch.equal(counts, run(ones).round())
    torch.testing.assert_close(sizes, run(ones, "abs"), rtol=1e-10, atol=1e-10)


@CASES
@SHARES
@pytest.mark.parametrize("transpose", [False, True])
def test_of_any(name: str, share: float, transpose: bool) -> None:
    op = pruned(name, share)
    read, written = (op.target, op.source) if transpose else (op.source, op.target)
    counts = (op.backward if transpose else op.forward)(torch.ones(read.shape, dtype=torch.float64))
    found = contractions.of_any(op, transpose=transpose)
    assert found is not None
    assert torch.equal(found.expand(written.shape), counts.round() > 0)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("native", [True, False])
def test_used_number(share: float, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setenv("DEEPSTRUCT_NATIVE", "0")
    for name in ("linear", "strided", "rows"):
        op = pruned(name, share)
        assert contractions.used_number(op) == int(op.used_weights().sum())
    op = pruned("linear", share)
    ends = torch.rand(op.source.shape) < 0.6, torch.rand(op.target.shape) < 0.5
    expected = (op.weight_usage(ends[0].float(), ends[1].float()) > 0.5).sum()
    assert contractions.used_number(op, ends) == int(expected)


def test_changed_weights_are_read_again() -> None:
    for kind, name in ((Matmul, "linear"), (Conv, "strided")):
        op = pruned(name, 0.5)
        assert isinstance(op, kind)
        assert op.weight is not None
        assert op.live is not None
        assert not op.dense
        before = op.live
        assert op.live is before
        with torch.no_grad():
            op.weight.tensor.fill_(1)
        ones = torch.ones(op.source.shape, dtype=torch.float64)
        assert op.dense
        assert op.live is not before
        assert op.count() == int(op.forward(ones).sum())
