"""Ramanujan masks: random biregular bipartite graphs whose second singular value is as small as can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deepstruct.errors import InputError
from deepstruct.pruning.protocols import Density, Infeasible, Tensors
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


def biregular_mask(rows: int, columns: int, degree: int, generator: torch.Generator | None = None) -> Tensor:
    """A random boolean (rows, columns) in which every row has `degree` entries, and the columns share them equally.

    Column degrees are equal where rows * degree divides by columns, else they differ by one at most. Stubs are paired
    at random, and double edges resolved by switches with random other edges.
    """
    if not 0 <= degree <= columns or rows < 0:
        raise InputError(f"{rows} rows of degree {degree} over {columns} columns: a degree is from 0 to the columns")
    edges = rows * degree
    if edges == 0:
        return torch.zeros(rows, columns, dtype=torch.bool)
    row = torch.arange(rows).repeat_interleave(degree)
    shuffled = torch.randperm(columns, generator=generator)  # which columns get one more is random
    column = shuffled[torch.arange(edges) % columns][torch.randperm(edges, generator=generator)]
    for _ in range(10_000):
        code = row * columns + column
        order = code.argsort(stable=True)
        twice = torch.zeros(edges, dtype=torch.bool)
        twice[order[1:]] = code[order][1:] == code[order][:-1]
        bad = twice.nonzero().flatten()
        if len(bad) == 0:
            mask = torch.zeros(rows, columns, dtype=torch.bool)
            mask[row, column] = True
            return mask
        other = torch.randint(edges, (len(bad),), generator=generator)
        for a, b in zip(bad.tolist(), other.tolist(), strict=True):
            column[a], column[b] = column[b].item(), column[a].item()
    raise Infeasible(f"no simple biregular graph of {rows} x {columns} with degree {degree} was found")


def ramanujan_mask(
    rows: int, columns: int, degree: int, generator: torch.Generator | None = None, *, attempts: int = 200
) -> Tensor:
    """A random biregular mask that is Ramanujan, by rejection: sigma2 <= sqrt(d_row - 1) + sqrt(d_column - 1).

    Nearly all random biregular graphs come close to the bound, and a constant share of them below it. Raises
    Infeasible after that many attempts, InputError where column degrees cannot be equal or a degree is below 2.
    """
    if rows < 1 or columns < 1 or (rows * degree) % columns:
        raise InputError(
            f"{rows} rows of degree {degree} cannot fill {columns} columns equally: rows * degree must divide by them"
        )
    if min(degree, rows * degree // columns) < 2:
        raise InputError("degrees below 2 make a graph without expansion: the bound says nothing there")
    nearest = math.inf
    for _ in range(attempts):
        mask = biregular_mask(rows, columns, degree, generator)
        found = _measure(mask)
        if found.ramanujan:
            return mask
        nearest = min(nearest, found.sigma2 - found.bound)
    raise Infeasible(
        f"none of {attempts} random {rows} x {columns} graphs of degree {degree} is Ramanujan (nearest: {nearest:.3g} "
        "above the bound): allow more attempts, or another degree"
    )


class Ramanujan:
    """Masks for `Rewire(init=...)`: each layer a Ramanujan graph of the nearest degree to the density that fits.

    Row degrees must let columns share equally, so that a layer of (out, in) takes a multiple of in / gcd(in, out).
    Layers that are too small for one (degrees below 2) are full.
    """

    def __init__(self, density: Density, *, attempts: int = 200) -> None:
        self.density, self.attempts = density, attempts

    def __call__(self, view: View) -> Tensors:
        out = {}
        for name, shape in view.shapes.items():
            rows, columns = shape[0], shape.numel() // max(shape[0], 1)
            unit = columns // math.gcd(columns, rows)
            degree = max(round(share(self.density, name) * columns / unit), 1) * unit
            while degree < columns and min(degree, rows * degree // columns) < 2:
                degree += unit
            if degree >= columns:
                mask = torch.ones(rows, columns, dtype=torch.bool)
            else:
                mask = ramanujan_mask(rows, columns, degree, view.generator, attempts=self.attempts)
            out[name] = mask.reshape(shape).to(view.targets[name].device)
        return out
