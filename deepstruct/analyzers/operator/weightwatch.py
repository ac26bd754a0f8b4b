"""Spectra of the stored weights of each layer: norms, stable rank, power-law tail, circular convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from deepstruct.analyzers.operator.iteration import once
from deepstruct.analyzers.operator.stored import kept, kernels, stored_matrix, weighted_operators
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import budget
from deepstruct.engine.bipartite import degrees
from deepstruct.engine.circular import circular_singular_values
from deepstruct.engine.tail import fit_power_law
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric
from deepstruct.structure.operators import Conv, EdgeOperator

_MAX_SIDE = 8192  # of a matrix that is decomposed in full
_FEWEST = 10  # eigenvalues that a tail is fitted to


def _eigenvalues(view: OperatorView) -> dict[str, torch.Tensor]:
    """Per layer the eigenvalues of W'W (the min(out, in) that can be non-zero), descending."""

    def compute() -> dict[str, torch.Tensor]:
        out = {}
        for name, ops in weighted_operators(view).items():
            budget.check()
            out[name] = kept(ops, "eigenvalues of W'W", partial(_spectrum, name, ops))
        return {name: values for name, values in out.items() if values.numel() and float(values[0]) > 0}

    return once(view, "eigenvalues of W'W", compute)


def _spectrum(name: str, ops: list[EdgeOperator]) -> torch.Tensor:
    """The eigenvalues of W'W of one layer, descending."""
    matrix = stored_matrix(name, ops, "signed")
    side = min(matrix.shape)
    if side > _MAX_SIDE:
        raise MetricError(f"layer {name}: a matrix with a side of {side:,} is not decomposed in full")
    gram = matrix @ matrix.T if matrix.shape[0] == side else matrix.T @ matrix
    if not bool(torch.isfinite(gram).all()):
        raise MetricError(f"layer {name}: some weights are not finite")
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0)


def _of_eigenvalues(value: Callable[[torch.Tensor], float]) -> Callable[[OperatorView], dict[str, float]]:
    return lambda view: {name: value(values) for name, values in _eigenvalues(view).items()}


def _tails(view: OperatorView) -> dict[str, tuple[float, float]]:
    """Per layer (alpha, Kolmogorov-Smirnov distance) of the power law fitted to the eigenvalues' tail."""

    def compute() -> dict[str, tuple[float, float]]:
        out, mine = {}, weighted_operators(view)
        for name, values in _eigenvalues(view).items():
            budget.check()
            positive = values[values > 1e-10 * values[0]].numpy()
            if len(positive) < _FEWEST:
                continue
            tail = kept(mine[name], "power-law tail", partial(fit_power_law, positive))
            if math.isfinite(tail.exponent):
                out[name] = (tail.exponent, tail.distance)
        return out

    return once(view, "power-law tails", compute)


def _alpha(view: OperatorView) -> Measured:
    found = _tails(view)
    worst = max((distance for _, distance in found.values()), default=0.0)
    return Measured({name: alpha for name, (alpha, _) in found.items()}, exact=False, residual=worst,
                    note="the residual is the largest Kolmogorov-Smirnov distance of a fit")  # fmt: skip


def _alpha_hat(view: OperatorView) -> Measured:
    largest = {name: float(values[0]) for name, values in _eigenvalues(view).items()}
    alphas = _alpha(view)
    weighted = {name: alpha * math.log10(largest[name]) for name, alpha in alphas.value.items()}
    return Measured(weighted, exact=False, residual=alphas.residual, note=alphas.note)


def _circular(value: Callable[[torch.Tensor], float]) -> Callable[[OperatorView], dict[str, float]]:
    def compute(view: OperatorView) -> dict[str, float]:
        return {name: value(values) for name, values in once(view, "circular", lambda: _circles(view)).items()}

    return compute


def _circles(view: OperatorView) -> dict[str, torch.Tensor]:
    out = {}
    for name, ops in weighted_operators(view).items():
        if len(ops) != 1 or not isinstance(ops[0], Conv):
            continue
        op = ops[0]
        if op.transposed or op.groups != 1 or any(step != 1 for step in op.stride):
            continue
        kernel = stored_matrix(name, ops, "signed").reshape(op.weight.tensor.shape)
        values = circular_singular_values(kernel, tuple(op.source.shape[2:]), op.dilation)
        if float(values[0]) > 0:
            out[name] = values
    return out


def _expansion(view: OperatorView) -> dict[str, float]:
    sides = {name: degrees(layer("pattern")).joined for name, layer in kernels(view).items()}
    return {name: right / left for name, (left, right) in sides.items() if left}


def _overlap(view: OperatorView) -> dict[str, float]:
    out = {}
    for name, ops in weighted_operators(view).items():
        if len(ops) != 1 or not isinstance(ops[0], Conv) or ops[0].transposed or ops[0].groups != 1:
            continue
        shape = ops[0].weight.tensor.shape
        alive = stored_matrix(name, ops, "pattern").reshape(shape[0], shape[1], -1) > 0
        shared, fewest = alive.all(2).sum(0), alive.sum(0).amin(1)
        used = fewest > 0
        if bool(used.any()):
            out[name] = float((shared[used] / fewest[used]).mean())
    return out


def _mean(compute: Callable[[OperatorView], Any]) -> Callable[[OperatorView], Any]:
    def mean(view: OperatorView) -> Any:
        found = compute(view)
        values = found.value if isinstance(found, Measured) else found
        if not values:
            raise MetricError("the metric is not defined in any layer")
        average = sum(values.values()) / len(values)
        return Measured(average, exact=found.exact, residual=found.residual, note=found.note) if isinstance(
            found, Measured
        ) else average

    return mean


_STORED = "W: the layer's stored weights, convolutions reshaped to (out, in * taps)"
_WW = "Martin & Mahoney (WeightWatcher)"
_TABLE: list[tuple[str, Callable[[OperatorView], Any], str, str]] = [
    ("stable_rank", _of_eigenvalues(lambda v: float(v.sum() / v[0])),
     f"Squared Frobenius norm / squared spectral norm of W ({_STORED}).", _WW),
    ("log10_frobenius_norm", _of_eigenvalues(lambda v: math.log10(float(v.sum())) / 2),
     f"log10 of the Frobenius norm of W ({_STORED}).", _WW),
    ("log10_spectral_norm", _of_eigenvalues(lambda v: math.log10(float(v[0])) / 2),
     f"log10 of the largest singular value of W ({_STORED}).", _WW),
    ("alpha", _alpha,
     "Exponent of the power law that is fitted to the tail of the eigenvalues of W'W, not divided by the number of "
     f"rows ({_STORED}); the tail's start is the one with the least Kolmogorov-Smirnov distance; layers with at "
     f"least {_FEWEST} positive eigenvalues.", f"{_WW}; Clauset, Shalizi & Newman 2009"),
    ("alpha_hat", _alpha_hat, f"alpha * log10 of the largest eigenvalue of W'W ({_STORED}).", _WW),
    ("circular_spectral_norm", _circular(lambda v: float(v[0])),
     "Largest singular value of the convolution with circular instead of zero padding (stride 1, one group), from the "
     "Fourier transform of its kernel.", "Sedghi, Gupta & Long 2019"),
    ("circular_stable_rank", _circular(lambda v: float(v.square().sum() / v[0].square())),
     "Sum of the squared singular values / largest squared, of the convolution with circular instead of zero padding "
     "(stride 1, one group).", "Sedghi, Gupta & Long 2019"),
    ("expansion_ratio", _expansion,
     "Outputs with weights / inputs (channel and tap) with weights, of the stored kernel (out, in * taps).",
     "Hoang et al. ICLR 2023, authors' code"),
    ("channel_overlap", _overlap,
     "Mean over input channels of |outputs that all taps of the channel reach| / least number that one tap reaches, "
     "channels with an empty tap left out; convolutions of one group.", "Hoang et al. ICLR 2023, authors' code"),
]  # fmt: skip


def _metrics() -> list[Metric]:
    out = []
    for name, compute, definition, source in _TABLE:
        exact = not name.startswith("alpha")
        options: dict[str, Any] = {"default": False, "orders": ("zeroth",), "source": source, "exact": exact}
        out.append(Metric(f"layer_{name}", "operator", compute, scope="layer", definition=definition, **options))
        text = f"Mean over the layers of layer_{name}."
        out.append(Metric(f"{name}_mean", "operator", _mean(compute), definition=text, **options))
    return out


METRICS: list[Metric] = _metrics()
