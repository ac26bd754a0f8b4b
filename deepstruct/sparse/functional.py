"""Functions behind the layers: masked and sparse linear maps, masked convolutions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from deepstruct.errors import InputError
from deepstruct.sparse import extension
from deepstruct.sparse.checks import check_backend, check_input, check_mask
from deepstruct.sparse.eager import EagerProduct
from deepstruct.sparse.layout import coordinates
from deepstruct.sparse.plan import DenseProduct, SparseProduct, plan_of
from deepstruct.sparse.structure import Structure

_SMALL = 128 * 1024  # weights of a dense product


def masked_linear(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """y = x (weight * mask)' + bias.

    `x` is (..., in), `weight` and the boolean `mask` are (out, in), the result is (..., out). The gradient of
    `weight` is zero where `mask` is false. `backend`: "sparse" computes only where the mask is true, "dense"
    multiplies whole matrices, "auto" takes what was measured to be faster here (see `calibration`).

    The structure of a mask is kept as long as the mask lives, and made anew when torch sees the mask change;
    edits that torch does not see (through `.data` or a NumPy view) need a call of `plan.forget(mask)`.
    Raises InputError for arguments that do not fit.
    """
    check_backend(backend)
    check_input(x, weight.shape[1], weight.device)
    check_mask(mask, weight.shape, weight.device)
    if _transformed():
        return linear(x, weight * mask, bias)
    dtype = _compute_dtype(x, weight)
    if dtype not in (torch.float32, torch.float64) or x.device.type != "cpu":
        # Half precision and other devices have fast dense products, and no sparse kernel of ours.
        return linear(x.to(dtype), (weight * mask).to(dtype), None if bias is None else bias.to(dtype))
    if x.dtype != weight.dtype:
        raise InputError(f"the input is {x.dtype}, the weight {weight.dtype}: convert one of them")
    plan = plan_of(mask)
    sparse = plan.wants_sparse(backend, math.prod(x.shape[:-1]), dtype)
    if backend == "auto" and not sparse and weight.numel() < _SMALL:
        # Fresh memory for a small product costs less than keeping books on it.
        return linear(x, weight * plan.float_mask(weight), bias)
    if sparse:
        extension.tell_once()
    product = SparseProduct if sparse else DenseProduct
    return product.apply(_rows(x), weight, mask, bias, plan).view(*x.shape[:-1], weight.shape[0])


def sparse_linear(
    x: Tensor, values: Tensor, structure: Structure, out_features: int, bias: Tensor | None = None
) -> Tensor:
    """y = x W' + bias, W given by its `values` (nnz) and their `structure`.

    `x` is (..., in), the result (..., out_features). Half-precision operands are multiplied and summed in
    float32, and the result is rounded once. Differentiable twice; compiles without graph breaks; function
    transforms (vmap, torch.func.grad) go by way of the dense matrix.
    """
    if torch._C._are_functorch_transforms_active():
        rows, cols = coordinates(*structure[:3])
        weight = values.new_zeros(out_features, x.shape[-1]).index_put((rows, cols), values)
        return linear(x, weight, bias)
    extension.tell_once()
    dtype = _compute_dtype(x, values)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    operands = [None if t is None else t if t.dtype == wide else t.to(wide) for t in (_rows(x), values, bias)]
    if torch.compiler.is_compiling():
        out = torch.ops.deepstruct.sparse_linear(*operands, *structure, out_features)
    else:
        out = EagerProduct.apply(*operands, out_features, *structure)
    out = out if dtype == wide else out.to(dtype)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], out_features)


def _rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return torch.promote_types(x.dtype, weight.dtype)


def _transformed() -> bool:
    """Whether compilers or function transforms look on: they need plain tensor operations."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
