"""Masks as bipartite graphs: how well they expand, and random ones that expand as well as can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Density, Tensors
from deepstruct.pruning.scopes import share
from deepstruct.pruning.view import View


@dataclass(frozen=True)
class Expansion:
    """The 0/1 pattern of one mask as a bipartite graph, outputs x everything else.

    Attributes:
        edges, sigma1, sigma2: its size and its two largest singular values.
        bound: sqrt(d_L - 1) + sqrt(d_R - 1), with mean degrees over the nodes that have edges.
        biregular: whether all inputs have one degree, and all outputs one.
    """

    edges: int
    sigma1: float
    sigma2: float
    bound: float
    biregular: bool

    @property
    def ramanujan(self) -> bool:
        """Whether sigma2 <= bound (for biregular graphs: the definition)."""
        return self.edges > 0 and self.sigma2 <= self.bound + 1e-9

    @property
    def gap(self) -> float:
        """sigma1 - sigma2."""
        return self.sigma1 - self.sigma2


def expansion(masks: Mapping[str, Tensor]) -> dict[str, Expansion]:
    """How well each mask expands; convolutions as (out, in / groups * taps).

    Source: Pal et al. 2022; Hoang et al. ICLR 2023. The metrics `layer_kernel_ramanujan_r` and so on say the same of a
    model's graph.
    """
    return {name: _measure(mask.detach().cpu()) for name, mask in masks.items()}


def _measure(mask: Tensor) -> Expansion:
    if mask.dim() == 0:
        raise InputError("a mask of a single number is no bipartite graph")
    matrix = mask.reshape(mask.shape[0], -1).to(torch.float64)
    edges = int(matrix.sum())
    if edges == 0:
        return Expansion(0, 0.0, 0.0, 0.0, True)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    right, left = matrix.sum(1), matrix.sum(0)
    right, left = right[right > 0], left[left > 0]
    bound = math.sqrt(float(left.mean()) - 1) + math.sqrt(float(right.mean()) - 1)
    same = bool((right == right[0]).all() and (left == left[0]).all())
    second = float(values[1]) if len(values) > 1 else 0.0
    return Expansion(edges, float(values[0]), second, bound, same)


class Ramanujan:
    """Masks for `Rewire(init=...)`: each layer a Ramanujan graph of the nearest degree to the density that fits.

    Drawn by rejection (`deepstruct.graph.ramanujan_bipartite`), at most `attempts` for each layer; CapacityError where
    none of them is one. Row degrees must let columns share equally, so that a layer of (out, in) takes a multiple of
    in / gcd(in, out).
    Layers that are too small for one (degrees below 2) are full.
    """

    def __init__(self, density: Density, *, attempts: int = 200) -> None:
        self.density, self.attempts = density, attempts

    def __call__(self, view: View) -> Tensors:
        from deepstruct.graph import ramanujan_bipartite

        out = {}
        for name, shape in view.shapes.items():
            seed = int(torch.randint(2**31, (), generator=view.generator))
            rows, columns = shape[0], shape.numel() // max(shape[0], 1)
            unit = columns // math.gcd(columns, rows)
            degree = max(round(share(self.density, name) * columns / unit), 1) * unit
            while degree < columns and min(degree, rows * degree // columns) < 2:
                degree += unit
            if degree >= columns:
                mask = torch.ones(rows, columns, dtype=torch.bool)
            else:
                mask = torch.from_numpy(ramanujan_bipartite(rows, columns, degree, seed=seed, tries=self.attempts))
            out[name] = mask.reshape(shape).to(view.targets[name].device)
        return out
