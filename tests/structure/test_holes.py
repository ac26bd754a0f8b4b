"""A dense layer with a few zero weights is computed as the dense one less the zeros: the same numbers."""

from __future__ import annotations

import pytest
import torch

from deepstruct.structure.operand import Operand
from deepstruct.structure.operators import Conv, Matmul, WeightRef


def _row_major(shape):
    stride, out = 1, []
    for n in reversed(shape):
        out.insert(0, stride)
        stride *= n
    return Operand.strided(tuple(shape), tuple(out), 0)


def _dense_matrix(op):
    matrix = torch.zeros(op.source.numel, op.target.numel, dtype=torch.float64)
    for piece in op.edges():
        matrix.index_put_((piece.source, piece.target), torch.ones(()).double(), accumulate=True)
    return matrix


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["matmul", "conv", "transposed"])
def test_the_few_zeros_of_a_dense_layer(kind, dtype):
    torch.manual_seed(0)
    if kind == "matmul":
        weight = torch.randn(40, 30)
        weight[3, 4] = weight[3, 7] = weight[20, 4] = 0
        op = Matmul(_row_major((2, 40)), _row_major((2, 30)), WeightRef(("w",), weight))
    else:
        weight = torch.randn(24, 20, 3, 3)
        weight[1, 2, 0, 1] = weight[1, 5, 2, 2] = weight[7, 2, 1, 1] = 0
        turned = kind == "transposed"
        source, target = ((1, 24, 4, 4), (1, 20, 9, 9)) if turned else ((1, 20, 6, 6), (1, 24, 3, 3))
        op = Conv(
            _row_major(source), _row_major(target), WeightRef(("w",), weight), (2, 2), (1, 1) if not turned else (0, 0),
            (1, 1), turned, (0, 0), 1,
        )  # fmt: skip
    assert op._holes is not None
    matrix = _dense_matrix(op)
    x = torch.randint(0, 1000, op.source.shape).to(dtype)
    y = torch.randint(0, 1000, op.target.shape).to(dtype)
    assert torch.equal(op.forward(x).reshape(-1).double().round(), x.reshape(-1).double() @ matrix)
    assert torch.equal(op.backward(y).reshape(-1).double().round(), matrix @ y.reshape(-1).double())
    assert op.count() == int(matrix.sum())
