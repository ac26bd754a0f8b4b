"""Expansion of each layer as a bipartite graph: singular values, Ramanujan gaps, their means over degree classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deepstruct.analyzers.operator.iteration import iteration, once
from deepstruct.analyzers.operator.stored import Layers, kernels, unrolled
from deepstruct.analyzers.operator.view import OperatorView
from deepstruct.engine import budget
from deepstruct.engine.bipartite import (
    Bipartite,
    Degrees,
    LeftPart,
    Singular,
    degrees,
    delta_r,
    delta_s,
    singular_values,
    smaller_side,
)
from deepstruct.errors import MetricError
from deepstruct.metrics.base import Measured, Metric

_MIN_DEGREE = 3


@dataclass(frozen=True)
class Layer:
    """What all metrics of one layer are made of."""

    degrees: Degrees
    spectrum: Singular


def _top(view: OperatorView, matrix: Bipartite) -> Singular:
    run = iteration(view)
    generator = torch.Generator().manual_seed(run.seed)
    start = torch.randn(smaller_side(matrix), generator=generator, dtype=torch.float64)
    return singular_values(matrix, start, steps=run.steps, tolerance=run.tolerance)


def _layers(view: OperatorView, kind: Layers) -> dict[str, Layer]:
    """Degrees and singular values of the 0/1 pattern of each layer with edges."""

    def compute() -> dict[str, Layer]:
        out = {}
        for name, layer in kind(view).items():
            budget.check()
            pattern = layer("pattern")
            sums = degrees(pattern)
            if sums.edges:
                out[name] = Layer(sums, _top(view, pattern))
        return out

    return once(view, f"ramanujan {kind.__name__}", compute)


def _weighted(view: OperatorView, kind: Layers) -> dict[str, Singular]:
    def compute() -> dict[str, Singular]:
        out = {}
        for name, layer in kind(view).items():
            budget.check()
            out[name] = _top(view, layer("abs"))
        return {name: found for name, found in out.items() if found.first > 0}

    return once(view, f"weighted {kind.__name__}", compute)


def _told(values: dict[str, float], spectra: list[Singular], note: str = "") -> Measured:
    return Measured(
        values, exact=False, residual=max((s.residual for s in spectra), default=0.0),
        converged=all(s.converged for s in spectra), note=note,
    )  # fmt: skip


def _of_pattern(view: OperatorView, kind: Layers, value: Callable[[Layer], float]) -> Measured:
    found = _layers(view, kind)
    return _told({name: value(layer) for name, layer in found.items()}, [layer.spectrum for layer in found.values()])


def _weighted_gap(view: OperatorView, kind: Layers) -> Measured:
    found = _weighted(view, kind)
    return _told({name: spectrum.gap for name, spectrum in found.items()}, list(found.values()))


def narc(layer: Layer) -> float:
    """((sigma_2^2 / 4 + 1) sqrt(n_L n_R) - |m - d_L / N_R n_L n_R|) / (N_L N_R)."""
    d = layer.degrees
    left, right = d.joined
    all_left, all_right = d.left.numel(), d.right.numel()
    spread = (layer.spectrum.second**2 / 4 + 1) * (left * right) ** 0.5
    return (spread - abs(d.edges - d.means[0] / all_right * left * right)) / (all_left * all_right)


Class = tuple[float, float, float]  # delta_r, its bound, gap of |w|


def _classes(view: OperatorView, kind: Layers, weighted: bool) -> tuple[dict[str, list[Class]], list[Singular], str]:
    """Per layer a row for each induced left-d-regular subgraph with d >= 3 and mean right degree >= 3."""

    def compute() -> tuple[dict[str, list[Class]], list[Singular], str]:
        limit = int(view.context.settings.get("max_degree_classes", 64))
        rows: dict[str, list[Class]] = {}
        spectra: list[Singular] = []
        cut: list[str] = []
        for name, layer in kind(view).items():
            pattern = layer("pattern")
            left = degrees(pattern).left.round()
            present = left[left >= _MIN_DEGREE].unique().tolist()
            if len(present) > limit:
                cut.append(name)
                continue
            values = layer("abs") if weighted else None
            for degree in present:
                budget.check()
                keep = left == degree
                part = LeftPart(pattern, keep)
                sums = degrees(part)
                if sums.means[1] < _MIN_DEGREE:
                    continue
                found = _top(view, part if values is None else LeftPart(values, keep))
                spectra.append(found)
                bound = delta_r(sums, 0.0)
                rows.setdefault(name, []).append((bound - found.second, bound, found.gap))
        note = f"left out, with more than {limit} degree classes (max_degree_classes): {', '.join(cut)}" if cut else ""
        return rows, spectra, note

    return once(view, f"classes {kind.__name__} {weighted}", compute)


def _over_classes(view: OperatorView, kind: Layers, value: Callable[[Class], float], weighted: bool) -> Measured:
    rows, spectra, note = _classes(view, kind, weighted)
    if not rows and note:
        raise MetricError(f"no layer is left: {note}")
    means = {name: sum(map(value, classes)) / len(classes) for name, classes in rows.items()}
    return _told(means, spectra, note)


def _mean(compute: Callable[[OperatorView], Measured]) -> Callable[[OperatorView], Measured]:
    def mean(view: OperatorView) -> Measured:
        layers = compute(view)
        if not layers.value:
            raise MetricError("the metric is not defined in any layer")
        value = sum(layers.value.values()) / len(layers.value)
        note = "; ".join(part for part in (f"mean over {len(layers.value)} layers", layers.note) if part)
        return Measured(value, exact=False, residual=layers.residual, converged=layers.converged, note=note)

    return mean


_KINDS: tuple[tuple[Layers, str, str], ...] = (
    (unrolled, "", "Bipartite graph of the layer's units and all units that they read through weights (the unrolled "
     "operator, a multigraph; units that are part of a later sum stand for themselves)"),
    (kernels, "kernel_", "Bipartite graph of the stored weights, convolutions reshaped to (out, in * taps) as in the "
     "literature"),
)  # fmt: skip

_PAL, _ICLR, _NIPS = "Pal et al. 2022; Hoang et al. ICLR 2023", "Hoang et al. ICLR 2023", "Hoang et al. NeurIPS 2023"
_CLASS = (
    "over the subgraphs that the left nodes (those read) of one degree d >= 3 induce, where the mean right degree is "
    ">= 3 as in the authors' code"
)


def _table(kind: Layers) -> list[tuple[str, Callable[[OperatorView], Measured], str, str]]:
    pattern = {
        "sigma1": (lambda c: c.spectrum.first, "largest singular value sigma_1 = lambda_1 of the adjacency matrix", ""),
        "sigma2": (lambda c: c.spectrum.second, "second singular value sigma_2 (sigma_1 again where it is double)", ""),
        "spectral_gap": (lambda c: c.spectrum.gap, "sigma_1 - sigma_2", "Hoang et al. ICLR 2023"),
        "ramanujan_r": (lambda c: delta_r(c.degrees, c.spectrum.second),
                        "delta_r = sqrt(d_L - 1) + sqrt(d_R - 1) - sigma_2, mean degrees over nodes with edges; "
                        "positive: Ramanujan", _PAL),
        "ramanujan_s": (lambda c: delta_s(c.spectrum), "delta_s = 2 sqrt(sigma_1 - 1) - sigma_2", _PAL),
        "narc": (narc, "random-graph bound ((sigma_2^2 / 4 + 1) sqrt(n_L n_R) - |m - d_L / N_R n_L n_R|) / (N_L N_R), "
                 "n nodes with edges, N all nodes, d_L mean left degree", "Hoang et al. ICLR 2023, authors' code"),
    }  # fmt: skip
    rows: list[tuple[str, Callable[[OperatorView], Measured], str, str]] = [
        (name, partial(_of_pattern, kind=kind, value=value), text, source)
        for name, (value, text, source) in pattern.items()
    ]
    rows += [
        ("weighted_gap", partial(_weighted_gap, kind=kind), "sigma_1 - sigma_2 with |w| for edges", _NIPS),
        ("imdb", partial(_over_classes, kind=kind, value=lambda c: c[0], weighted=False),
         f"IMDB, mean of delta_r {_CLASS}", _ICLR),
        ("imdb_normalized", partial(_over_classes, kind=kind, value=lambda c: c[0] / c[1], weighted=False),
         f"mean of delta_r / (delta_r + sigma_2) {_CLASS}", _ICLR),
        ("imsg", partial(_over_classes, kind=kind, value=lambda c: c[2], weighted=True),
         f"IMSG, mean of sigma_1 - sigma_2 with |w| for edges {_CLASS}", _NIPS),
    ]  # fmt: skip
    return rows


def _metrics() -> list[Metric]:
    out = []
    for kind, prefix, start in _KINDS:
        for name, compute, text, source in _table(kind):
            options: dict[str, Any] = {"exact": False, "default": False, "orders": ("zeroth",), "source": source}
            out.append(Metric(f"layer_{prefix}{name}", "operator", compute, scope="layer",
                              definition=f"{start}: {text}.", **options))  # fmt: skip
            out.append(Metric(f"{prefix}{name}_mean", "operator", _mean(compute),
                              definition=f"Mean over the layers of layer_{prefix}{name}.", **options))  # fmt: skip
    return out


METRICS: list[Metric] = _metrics()
