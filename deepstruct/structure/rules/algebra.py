"""Matrix functions and distances: every element of a result reads the whole matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from deepstruct.structure.builder import Builder
from deepstruct.structure.node import Arg, Node
from deepstruct.structure.operand import CONST, ZERO, Operand
from deepstruct.structure.operators import Matmul
from deepstruct.structure.rules.base import RuleSet
from deepstruct.structure.signal import Signal

rules = RuleSet()


def dense_per_batch(b: Builder, signals: Sequence[Signal], shape: tuple[int, ...], lead: int) -> Signal:
    """Units of the given shape that read all of the same batch entry; the first `lead` axes are the batch."""
    batch = math.prod(shape[:lead])
    size = math.prod(shape[lead:])
    space = b.space(shape, "dense")
    target = Operand.strided((batch, size), (size, 1), space.offset)
    live: torch.Tensor | None = torch.zeros(batch, size, dtype=torch.bool)
    for signal in signals:
        own = signal.shape[max(len(signal.shape) - 2, 0) :]
        source = b.operand(signal.mapped(lambda t, own=own: t.expand(*shape[:lead], *own).reshape(batch, -1)))  # type: ignore[misc]
        valid = source.valid()
        if valid is not None and not bool(valid.any()):
            continue
        operator = Matmul(source, target)
        live = None if valid is None or live is None else live | operator.touches(valid)
        b.add(operator)
    return b.signal(space, None if live is None else live.view(shape))


@rules.op("linalg_inv_ex", "_linalg_solve_ex", "linalg_cholesky_ex", "_linalg_det", "_linalg_slogdet",
          "linalg_qr", "_linalg_svd", "_linalg_eigh", "linalg_matrix_exp", "linalg_pinv", "linalg_solve_triangular",
          "cholesky_inverse", "cholesky_solve", "triangular_solve", "linalg_lstsq", "linalg_ldl_factor_ex",
          "linalg_ldl_solve", "linalg_lu_factor_ex", "linalg_lu", "linalg_lu_solve", "linalg_eig",
          "_linalg_eigvals", "linalg_householder_product", "geqrf", "ormqr")  # fmt: skip
def matrix_function(b: Builder, node: Node) -> list[Signal | None]:
    """Inverses, factorisations, determinants, solutions of linear systems."""
    signals = node.signals()
    lead = max(len(a.shape) for a in node.tensors()) - 2
    results: list[Signal | None] = []
    for value in node.out:
        floating = value is not None and (value.dtype.is_floating_point or value.dtype.is_complex)
        if not floating or value is None or value.shape == (0,) or math.prod(value.shape) == 0:
            results.append(None)
        else:
            results.append(dense_per_batch(b, signals, value.shape, lead))
    return results


@rules.op("_cdist_forward", "_euclidean_dist")
def distances(b: Builder, node: Node) -> Signal:
    """Distances between two sets of points: each reads both points."""
    left, right = node.arg(0, "x1"), node.arg(1, "x2")
    assert node.out[0] is not None
    shape = node.out[0].shape
    points: list[Signal | None] = []
    for arg, turn in ((left, False), (right, True)):
        lead = (*shape[:-2], *arg.shape[-2:])
        signal = arg.signal
        if signal is not None:
            signal = signal.mapped(lambda t, lead=lead: t.expand(lead))
            signal = signal.mapped(lambda t: t.transpose(-1, -2)) if turn else signal
        points.append(signal)
    return b.mix(points[0], points[1], (None, None), shape).curved()


@rules.op("lu_unpack")
def unpack_factors(b: Builder, node: Node) -> list[Signal | None]:
    """The two triangles of a factorisation that is stored in one matrix; the rows' order is control."""
    factors = node.arg(0, "LU_data")
    if factors.signal is None:
        return [None, None, None]
    results: list[Signal | None] = [None]
    for value, lower in zip(node.out[1:], (True, False), strict=True):
        if value is None or math.prod(value.shape) == 0:
            results.append(None)
            continue
        rows, columns = value.shape[-2:]
        kept = factors.signal.mapped(lambda t, r=rows, c=columns: t[..., :r, :c])
        ones = torch.ones(rows, columns, dtype=torch.bool)
        if lower:
            kept = kept.filled(ones.triu(), ZERO).filled(torch.eye(rows, columns, dtype=torch.bool), CONST)
        else:
            kept = kept.filled(ones.tril(-1), ZERO)
        results.append(kept)
    return results


@rules.op("_pdist_forward")
def distances_within(b: Builder, node: Node) -> Signal:
    """Distances between all pairs of rows of one matrix: each reads both rows."""
    (x,) = node.signals()
    points, features = x.shape
    pairs = torch.combinations(torch.arange(points), 2)  # in the order of the result
    source = (pairs.reshape(-1, 1) * features + torch.arange(features)).reshape(-1)
    target = torch.arange(len(pairs)).repeat_interleave(2 * features)
    return b.sparse(x, (len(pairs),), source, target, kind="merge").curved()


@rules.op("linalg_cross")
def cross(b: Builder, node: Node) -> Signal:
    """a x b: the difference of two products, as it is when written out."""
    left, right, dim = node.arg(0, "self"), node.arg(1, "other"), node.kwargs.get("dim", -1)
    assert node.out[0] is not None
    shape = node.out[0].shape
    terms = [_product(b, left, right, shape, dim, (-1, -2)), _product(b, left, right, shape, dim, (-2, -1))]
    return b.merge(terms, additive=True)


def _product(
    b: Builder, left: Arg, right: Arg, shape: tuple[int, ...], dim: int, shifts: tuple[int, int]
) -> Signal:
    """One side times the other, each rolled along an axis; constants are where they are zero."""
    signals, zeros = [], torch.zeros(shape, dtype=torch.bool)
    for arg, shift in zip((left, right), shifts, strict=True):
        if arg.signal is not None:
            signals.append(arg.signal.mapped(lambda t, s=shift: t.expand(shape).roll(s, dim)))  # type: ignore[misc]
        elif not arg.data_dependent and arg.zeros() is not None:
            zeros |= (arg.tensor() == 0).expand(shape).roll(shift, dim)
    if len(signals) == 2:
        return b.merge(signals, product=True)
    return b.one_to_one(signals[0], linear=True, zeros=zeros)
